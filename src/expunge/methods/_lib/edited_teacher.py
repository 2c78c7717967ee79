"""The edited-teacher family: mean_t CE( softmax(edit(teacher logits_t, y_t)), softmax(z_t) ).

UNDIAL, CE-U, WHP and PROD differ in the teacher and in the edit only.

Legend: N supervised tokens (flat), V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from expunge.data.encoder import Batch
from expunge.methods._lib.divergence import cross_entropy
from expunge.methods.base import Objective
from expunge.models.head import raised
from expunge.training.step import Step, Term


def subtract(logits_NV: Tensor, token_N: Tensor, constant: float) -> Tensor:
    """Logits with `constant` (nats) subtracted from one token of each row."""
    logits_NV = raised(logits_NV)
    true_N1 = token_N[:, None]
    return logits_NV.scatter(1, true_N1, logits_NV.gather(1, true_N1) - constant)


def forbid(logits_NV: Tensor, token_N: Tensor) -> Tensor:
    """Logits with one token of each row set to -inf; all others keep their odds."""
    return raised(logits_NV).scatter(1, token_N[:, None], -torch.inf)


def replace(logits_NV: Tensor, token_N: Tensor) -> Tensor:
    """Logits of a hard target: 0 for one token of each row, -inf for all others."""
    return torch.full_like(raised(logits_NV), -torch.inf).scatter(1, token_N[:, None], 0.0)


def nucleus(logits_NV: Tensor, top_p: float, most: int | None = None) -> Tensor:
    """Logits of the likeliest tokens up to the first with which their probability exceeds `top_p`, others -inf.

    1 keeps all. At least one token is kept, at most `most`; of equally likely ones the first in the vocabulary.
    """
    sorted_NV, order_NV = raised(logits_NV).sort(dim=-1, descending=True, stable=True)
    size = sorted_NV.shape[1]
    dropped_NV = torch.arange(size, device=logits_NV.device).expand_as(order_NV) >= (most or size)
    if top_p < 1:
        before_NV = F.pad(sorted_NV.softmax(-1).cumsum(-1)[:, :-1], (1, 0))
        dropped_NV = dropped_NV | (before_NV > top_p)
    return raised(logits_NV).masked_fill(torch.zeros_like(dropped_NV).scatter(1, order_NV, dropped_NV), -torch.inf)


def distribution(logits_NV: Tensor) -> Tensor:
    """Softmax in float32 or better; a logit of -inf becomes exactly 0."""
    return F.softmax(raised(logits_NV), dim=-1)


def tokens_after(skip: int, batch: Batch) -> Tensor:
    """True for every supervised token but the first `skip` of each row; shape N."""
    kept = [position >= skip for row in batch.rows for position in range(row.supervised)]
    return torch.tensor(kept, dtype=torch.bool, device=batch.device)


class EditedTeacher(Objective):
    """Base of the family: a subclass implements `edit`, `counted` if not every answer token counts, and `weights` if
    not all of them count alike.

    The teacher is the original when the card needs reference.logits, else the current model.
    The target is detached.
    """

    reads = ("forget",)

    def edit(self, teacher_NV: Tensor, batch: Batch) -> Tensor:
        """Logits of the target distribution, shape N V; must not write to `teacher_NV`."""
        raise NotImplementedError

    def counted(self, batch: Batch) -> Tensor:
        """Mask of the supervised tokens in the mean of the loss, bool of shape N."""
        return torch.ones_like(batch.target_N, dtype=torch.bool)

    def count(self, batch: Batch) -> int:
        """The number of counted tokens."""
        return int(self.counted(batch).sum())

    def weights(self, step: Step) -> Tensor | None:
        """Factor of every token's loss, shape N; None for 1. The denominator of the mean stays the number of tokens."""
        return None

    def terms(self, step: Step) -> dict[str, Term]:
        answers = step.answers("forget")
        from_original = "reference.logits" in self.card.needs
        teacher = step.reference.answers(answers.batch) if from_original else answers
        loss_N = cross_entropy(self.edit(teacher.logits_NV.detach(), answers.batch), answers.source)
        loss_N = loss_N.where(self.counted(answers.batch), 0.0)
        if (weights_N := self.weights(step)) is not None:
            loss_N = loss_N * weights_N.to(loss_N)
        return {self.card.name: Term(answers.per_row(loss_N), self.count, "forget")}
