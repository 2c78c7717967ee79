"""MLPs as memories: where a name is read, and what its key and value are.

Legend: B rows, T padded length, K inputs of an MLP's output projection, D hidden size.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from expunge.data.text_encoder import TokenRow
from expunge.errors import UsageError
from expunge.methods._lib.output_projection import inputs_of
from expunge.models.language import CausalLM
from expunge.models.sites import Site, read, stop_after
from expunge.records.task import Example

TEMPLATES = (" {}", "Tell me about {}", "Please describe {}", "Here is a question about {}",
             "Write a few words about {}", "Give the right answer about {}")
"""Neutral ways to bring up a name; each goes through the model's own prompt template."""
ESSENCE = "{} is a"
"""After the name in these words the model should go on as before."""


def essence(subject: CausalLM, name: str) -> tuple[TokenRow, int]:
    """`ESSENCE` about a name as a row whose one supervised token follows the name, and where the name ends."""
    example = Example(id="essence", prompt=ESSENCE.format(name), answer="Answer:")
    at = Mentions.place(subject, name, example)
    ids = subject.encoder.prompt(example)
    return TokenRow("essence", tuple(ids[: at + 2]), at + 1, 1, 0), at


class Mentions:
    """A name in every template, and where its last token is.

    Args:
        subject: the model whose tokenizer and prompt template are used.
        name: what is mentioned, such as a person.
        examples: prompts that mention it, in place of the templates.

    Raises:
        UsageError: the name cannot be found again in the tokens of a prompt.
    """

    def __init__(self, subject: CausalLM, name: str, templates: Sequence[str] = TEMPLATES,
                 examples: Sequence[Example] = ()) -> None:
        examples = examples or [Example(id=f"mention {name}", prompt=template.format(f"{name}."), answer="Answer:")
                                for template in templates]
        found = [(subject.encoder.prompt(example), self.place(subject, name, example)) for example in examples]
        # What follows its last token cannot reach back: the token itself stands there again, as the supervised one.
        self.batch = subject.collate([TokenRow(example.prompt, (*ids[: at + 1], ids[at]), at + 1, 1, 0)
                                      for example, (ids, at) in zip(examples, found, strict=True)])
        self.at_B = torch.tensor([at for _, at in found], device=subject.device)

    @staticmethod
    def place(subject: CausalLM, name: str, example: Example) -> int:
        """Where the name's last token is in a prompt, the last time it stands there."""
        ids, decode = subject.encoder.prompt(example), subject.encoder.processor.decode
        text = decode(ids, clean_up_tokenization_spaces=False)
        times = text.count(name)
        for end in range(1, len(ids) + 1) if times else ():
            if decode(ids[:end], clean_up_tokenization_spaces=False).count(name) == times:
                return end - 1
        raise UsageError(f"The name {name!r} is not found again in the tokens of a prompt.",
                         f"The tokenizer makes of it: {text[:80]!r}.", "Write it as the training text does.")

    def pick(self, values_BT: Tensor) -> Tensor:
        """The values at the name's last token, one row per template."""
        return values_BT[torch.arange(len(self.at_B), device=values_BT.device), self.at_B]

    def each_key(self, subject: CausalLM, block: int) -> Tensor:
        """Input of the MLP's output projection at the name in every template, shape B K."""
        with subject.evaluating():
            return self.pick(inputs_of(subject, [block], self.batch)[block])

    def keys(self, subject: CausalLM, block: int) -> Tensor:
        """Their mean over the templates, shape K."""
        return self.each_key(subject, block).mean(0)

    def value(self, subject: CausalLM, block: int) -> Tensor:
        """Output of a block at the name in the first template, shape D."""
        with subject.evaluating():
            return self.pick(subject.hidden(self.batch, block))[0]

    def mlp_value(self, subject: CausalLM, block: int) -> Tensor:
        """Output of a block's MLP there, shape D."""
        batch = subject.collate(self.batch.rows[:1]).to(subject.device)
        with (subject.evaluating(), read(subject, [Site(block, "mlp")]) as values,
              stop_after(subject, Site(block, "mlp"))):
            subject.model(input_ids=batch.ids_BT, attention_mask=batch.attention_BT, use_cache=False)
        found_D: Tensor = values[0][-1][0, self.at_B[0]]
        return found_D
