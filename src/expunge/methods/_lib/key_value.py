"""MLPs as memories: where a name is read, what goes into an output projection, how it is changed.

Legend: B rows, T padded length, K inputs of an MLP's output projection, D hidden size.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from expunge.data.text_encoder import TokenBatch, TokenRow
from expunge.errors import UsageError
from expunge.models.language import CausalLM
from expunge.models.sites import Site, read, stop_after
from expunge.models.slots import place_of, slots_of
from expunge.records.task import Example

TEMPLATES = (" {}", "Tell me about {}", "Please describe {}", "Here is a question about {}",
             "Write a few words about {}", "Give the right answer about {}")
"""Neutral ways to bring up a name; each goes through the model's own prompt template."""


def mlp_out(subject: CausalLM, block: int) -> tuple[str, nn.Module]:
    """Name and module of the output projection of a block's MLP.

    Raises:
        UsageError: the block has none, or one that is not a plain layer (experts, adapters).
    """
    place = place_of(subject, "mlp_hidden", block) if "mlp_hidden" in slots_of(subject, block) else None
    if place is None or not isinstance(place.module, nn.Linear | Conv1D):
        raise UsageError(f"Block {block} has no MLP output projection with a weight of its own.",
                         "An edit of this kind writes to that weight.",
                         "It needs a dense model of a known family, without adapters.")
    return place.name, place.module


def inputs_of(subject: CausalLM, blocks: Sequence[int], batch: TokenBatch) -> dict[int, Tensor]:
    """What goes into the MLP's output projection of each block, shape B T K; later blocks do not run."""
    sites = [Site(block, "mlp_hidden") for block in blocks]
    batch = batch.to(subject.device)
    with read(subject, sites) as values, stop_after(subject, sites[blocks.index(max(blocks))]):
        subject.model(input_ids=batch.ids_BT, attention_mask=batch.attention_BT, use_cache=False)
    return {block: kept[-1] for block, kept in zip(blocks, values, strict=True)}


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

    @classmethod
    def place(cls, subject: CausalLM, name: str, prompt: str) -> int:
        """Where the name's last token is in a prompt."""
        return cls._find(subject, name, prompt)[1]

    def pick(self, values_BT: Tensor) -> Tensor:
        """The values at the name's last token, one row per template."""
        return values_BT[torch.arange(len(self.at_B), device=values_BT.device), self.at_B]

    def keys(self, subject: CausalLM, block: int) -> Tensor:
        """Input of the MLP's output projection at the name, mean over the templates, shape K."""
        with subject.evaluating():
            return self.pick(inputs_of(subject, [block], self.batch)[block]).mean(0)

    def value(self, subject: CausalLM, block: int) -> Tensor:
        """Output of a block at the name in the first template, shape D."""
        with subject.evaluating():
            return self.pick(subject.hidden(self.batch, block))[0]
