"""The token-weighted family: reduce( stopgrad(w) * log p ), minimised, so a positive w pushes p down.

GA, WGA, TNPO, SatImp and CATNIP differ in w and in the reduction only. NPO and SimNPO have the
gradient of a member (w = 2 P^b / (P^b + P0^b), and (2/n) sigmoid(b (S/n - delta)), summed over the tokens
of a sequence), but they are separate losses, so that the log shows the published values.

Legend: B rows, N supervised tokens (flat).
"""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import torch
from torch import Tensor

from expunge.methods.base import Objective
from expunge.models.answers import Answers
from expunge.training.step import Step, Term

EDGE = 1e-6
"""For weights with a pole at p = 1, p is clamped to 1 - EDGE, the resolution of 1 - p in float32."""


def token_mean(values_N: Tensor, answers: Answers, side: str) -> Term:
    """Mean over all supervised tokens of the step; long answers weigh more."""
    return Term(answers.per_row(values_N), "tokens", side)


def sequence_mean(values_B: Tensor, side: str) -> Term:
    """Mean over the rows of the step, independent of their length."""
    return Term(values_B, "sequences", side)


def sequence_logp(answers: Answers) -> Tensor:
    """log P of each answer: the sum of its token log-probs, shape B."""
    return answers.per_row(answers.logp_N)


def log_ratio(step: Step, side: str) -> Tensor:
    """log(P / P0) of each answer of a side, P0 the original's probability; shape B."""
    return step.answers(side).per_row(token_log_ratios(step, side))


def token_log_ratios(step: Step, side: str) -> Tensor:
    """log(p / p0) of each supervised token of a side; shape N."""
    answers = step.answers(side)
    return answers.logp_N - step.reference.logp(answers.batch)


def log1mexp(logp_N: Tensor) -> Tensor:
    """log(1 - p) from log p, exact at both ends: -inf at p = 1, 0 at p = 0."""
    near_one = logp_N > -math.log(2)
    return torch.where(near_one, torch.log(-torch.expm1(logp_N)), torch.log1p(-logp_N.exp()))


def below_one(logp_N: Tensor) -> Tensor:
    """log p with p clamped to at most 1 - EDGE."""
    return logp_N.clamp_max(math.log1p(-EDGE))


def weighted_logp(logp_N: Tensor, weight_N: Tensor) -> Tensor:
    """stopgrad(w) * log p per token, in nats; 0 where the weight is 0, even at p = 0.

    Its derivative with respect to log p is the weight. NaN stays NaN.
    """
    weight_N = weight_N.detach()
    return torch.where(weight_N == 0, 0.0, weight_N * logp_N)


class WeightedLikelihood(Objective):
    """Base of the family: a subclass implements `weight`, and sets `reduction` if it is not the token mean.

    The gradient is that of log p, times w per token. The logged value is the reduced w * log p in nats. It
    is never positive and does not measure forgetting: it is near 0 while tokens are certain (log p = 0) and
    again when their weight has vanished. `forget_nll` in the log is the loss itself.
    """

    reads = ("forget",)
    value_is_loss = False
    reduction: ClassVar[Literal["tokens", "sequences"]] = "tokens"
    """"tokens": mean over the supervised tokens of the step; "sequences": mean in each answer, then over answers."""

    def weight(self, logp_N: Tensor, reference_N: Tensor | None) -> Tensor:
        """Weight of every token, at least 0, shape N.

        Args:
            logp_N: current log-probs, detached.
            reference_N: the original's, when the card needs reference.logp; else None.
        """
        raise NotImplementedError

    def terms(self, step: Step) -> dict[str, Term]:
        answers = step.answers("forget")
        original = step.reference.logp(answers.batch) if "reference.logp" in self.card.needs else None
        values_N = weighted_logp(answers.logp_N, self.weight(answers.logp_N.detach(), original))
        if self.reduction == "tokens":
            return {self.card.name: token_mean(values_N, answers, "forget")}
        return {self.card.name: sequence_mean(answers.row_means(values_N), "forget")}
