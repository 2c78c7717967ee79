"""MLPs as memories: where a name is read, what goes into an output projection, how it is changed.

Legend: B rows, T padded length, K inputs of an MLP's output projection, D hidden size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from expunge.data.text_encoder import TokenBatch, TokenRow
from expunge.errors import UsageError
from expunge.methods.scopes.layers import MLP_OUT
from expunge.models.language import CausalLM
from expunge.records.task import Example

TEMPLATES = (" {}", "Tell me about {}", "Please describe {}", "Here is a question about {}",
             "Write a few words about {}", "Give the right answer about {}")
"""Neutral ways to bring up a name; each goes through the model's own prompt template."""


class _Caught(Exception):
    """Raised by a hook to leave a forward pass early."""


def mlp_out(subject: CausalLM, block: int) -> tuple[str, nn.Module]:
    """Name and module of the output projection of a block's MLP.

    Raises:
        UsageError: the block has none that is known by name, or several (experts).
    """
    prefix, module = list(subject.blocks.items())[block]
    found = [(f"{prefix}.{name}", m) for name, m in module.named_modules()
             if any(part in f".{name}" for part in MLP_OUT) and getattr(m, "weight", None) is not None
             and m.weight.dim() == 2]
    if len(found) != 1:
        raise UsageError(f"Block {block} has {len(found) or 'no'} MLP output projection{'s' * (len(found) > 1)}.",
                         f"Looked for modules called {', '.join(MLP_OUT)}.",
                         "An edit of this kind needs a dense model of a known family.")
    return found[0]


def inputs_of(subject: CausalLM, modules: Mapping[str, nn.Module], batch: TokenBatch) -> dict[str, Tensor]:
    """What goes into each module for a batch, shape B T K, from one forward pass that ends at the last of them."""
    caught: dict[str, Tensor] = {}

    def catch(name: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def hook(module: nn.Module, args: tuple[Any, ...]) -> None:
            caught[name] = args[0]
            if len(caught) == len(modules):
                raise _Caught
        return hook

    handles = [module.register_forward_pre_hook(catch(name)) for name, module in modules.items()]
    batch = batch.to(subject.device)
    try:
        subject.model(input_ids=batch.ids_BT, attention_mask=batch.attention_BT, use_cache=False)
    except _Caught:
        pass
    finally:
        for handle in handles:
            handle.remove()
    return caught


@torch.no_grad()
def add_to_weight(module: nn.Module, change_DK: Tensor) -> None:
    """W <- W + dW, for layers that keep their weight as D K (Linear) and as K D (GPT-2's Conv1D)."""
    weight = module.weight
    assert isinstance(weight, Tensor)
    weight += (change_DK if isinstance(module, nn.Linear) else change_DK.T).to(weight)


class Mentions:
    """A name in every template, and where its last token is.

    Args:
        subject: the model whose tokenizer and prompt template are used.
        name: what is mentioned, such as a person.

    Raises:
        UsageError: the name cannot be found again in the tokens of a prompt.
    """

    def __init__(self, subject: CausalLM, name: str, templates: Sequence[str] = TEMPLATES) -> None:
        found = [self._find(subject, name, template.format(f"{name}.")) for template in templates]
        self.batch = subject.collate([row for row, _ in found])
        self.at_B = torch.tensor([at for _, at in found], device=subject.device)

    @staticmethod
    def _find(subject: CausalLM, name: str, prompt: str) -> tuple[TokenRow, int]:
        example = Example(id=f"mention {name}", prompt=prompt, answer="Answer:")
        ids, decode = subject.encoder.prompt(example), subject.encoder.processor.decode
        text = decode(ids, clean_up_tokenization_spaces=False)
        times = text.count(name)
        for end in range(1, len(ids) + 1) if times else ():
            if decode(ids[:end], clean_up_tokenization_spaces=False).count(name) == times:
                # What follows its last token cannot reach back, so the prompt may end there.
                return TokenRow(prompt, ids[:end], end - 1, 1, 0), end - 1
        raise UsageError(f"The name {name!r} is not found again in the tokens of a prompt.",
                         f"The tokenizer makes of it: {text[:80]!r}.", "Write it as the training text does.")

    def pick(self, values_BT: Tensor) -> Tensor:
        """The values at the name's last token, one row per template."""
        return values_BT[torch.arange(len(self.at_B), device=values_BT.device), self.at_B]

    def keys(self, subject: CausalLM, name: str, module: nn.Module) -> Tensor:
        """Input of a module at the name, mean over the templates, shape K."""
        with subject.evaluating():
            return self.pick(inputs_of(subject, {name: module}, self.batch)[name]).mean(0)

    def value(self, subject: CausalLM, block: int) -> Tensor:
        """Output of a block at the name in the first template, shape D."""
        with subject.evaluating():
            return self.pick(subject.hidden(self.batch, block))[0]
