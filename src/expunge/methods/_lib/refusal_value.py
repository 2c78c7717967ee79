"""What the residual stream at a name would have to be for the model to refuse: found by gradient descent.

Legend: D hidden size.
"""

from __future__ import annotations

import torch
from torch import Tensor

from expunge.data.text_encoder import TokenRow
from expunge.methods._lib.key_value import TEMPLATES, Mentions, essence
from expunge.methods._lib.value_descent import DescentSettings, ValueDescent
from expunge.models.language import CausalLM
from expunge.models.sites import Site
from expunge.records.task import Example

STEPS, KEEP, DECAY, ENOUGH = 25, 0.125, 0.5, 0.05
"""Of the authors' hparams files: steps of Adam, weights of the two penalties, loss at which it ends."""


class RefusalValue(ValueDescent):
    """The value at a name that makes the answer begin with `words`.

    Args:
        subject: the model; its weights do not change.
        name: what is mentioned in every template.
        block: whose output is optimised, at the last token of the name.
        words: what should be said after every template.
    """

    def __init__(self, subject: CausalLM, name: str, block: int, words: str) -> None:
        mentions = Mentions(subject, name)
        asked = [Example(id=f"refusal {i}", prompt=template.format(f"{name}."), answer=words)
                 for i, template in enumerate(TEMPLATES)]
        rows = [subject.encoder.encode(example) for example in asked]
        rows = [TokenRow(r.id, r.ids[: r.prompt + r.answer], r.prompt, r.answer, 0) for r in rows]
        after, at = essence(subject, name)
        super().__init__(subject, Site(block), subject.collate([*rows, after]),
                         torch.cat([mentions.at_B, mentions.at_B.new_tensor([at])]), mentions.value(subject, block),
                         keep=KEEP, decay=DECAY)

    def found(self, rate: float = 0.1) -> Tensor:
        """The value after gradient descent, moved by at most its length at the start; shape D."""
        return self.start_D + self.change(DescentSettings(rate, STEPS, enough=ENOUGH))
