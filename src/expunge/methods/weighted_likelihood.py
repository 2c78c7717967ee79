"""The token-weighted family: reduce( stopgrad(w) * log p ), minimised, so a positive w pushes p down.

GA, NPO, SimNPO and their kin differ in w and in the reduction only (dossier, family W).
"""

from __future__ import annotations

from torch import Tensor

from expunge.models.subject import Answers
from expunge.training.step import Term


def token_mean(values_N: Tensor, answers: Answers, side: str) -> Term:
    """Mean over all supervised tokens of the step: long answers weigh more."""
    return Term(answers.per_row(values_N), "tokens", side)


def sequence_mean(values_B: Tensor, side: str) -> Term:
    """Mean over the rows of the step, whatever their length."""
    return Term(values_B, "sequences", side)


def sequence_logp(answers: Answers) -> Tensor:
    """log P of each answer: the sum of its token log-probs, shape B."""
    return answers.per_row(answers.logp_N)
