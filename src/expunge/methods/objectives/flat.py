"""FLAT: maximise an f-divergence between a template answer and the forget answer.

Legend: B rows.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from expunge.methods._lib.refused import RefusalSpec, refuse
from expunge.methods._lib.weighted_likelihood import sequence_mean
from expunge.methods.base import Objective
from expunge.models.answers import Answers
from expunge.plugin import Card, Property
from expunge.records.task import Example, Task
from expunge.training.step import Step, Term

Divergence = Literal["kl", "reverse_kl", "jeffreys", "hellinger", "pearson", "neyman", "js", "tv"]
Curve = Callable[[Tensor], Tensor]
LOG2 = math.log(2)

CURVES: dict[Divergence, tuple[Curve, Curve]] = {
    "kl": (lambda v: v, lambda v: torch.exp(v - 1)),
    "reverse_kl": (lambda v: -torch.exp(-v), lambda v: v - 1),
    "jeffreys": (lambda v: v, lambda v: v + v**2 / 4 + v**3 / 16),
    "hellinger": (lambda v: -torch.expm1(-v), torch.expm1),
    "pearson": (lambda v: v, lambda v: v**2 / 4 + v),
    "neyman": (lambda v: -torch.expm1(-v), lambda v: -2 * torch.expm1(-v / 2)),
    "js": (lambda v: LOG2 - F.softplus(-v), lambda v: v + F.softplus(-v) - LOG2),
    "tv": (lambda v: torch.tanh(v) / 2, lambda v: torch.tanh(v) / 2),
}
"""Divergence -> (g, f* o g): output activation and the conjugate of f at it. Both increase on [0, 1]."""


def flat(template_B: Tensor, forget_B: Tensor, divergence: Divergence) -> Tensor:
    """Loss per row, -g(v_e) + f*(g(v_f)), from mean token probabilities of template and forget answer."""
    g, conjugate = CURVES[divergence]
    return conjugate(forget_B) - g(template_B)


def mean_probability(answers: Answers) -> Tensor:
    """Mean probability of the supervised tokens of each row, in [0, 1], shape B."""
    return answers.row_means(answers.logp_N.exp())


class FLAT(Objective):
    """Raise the probability of a template answer and lower that of the forget answer; needs forget rows only."""

    class Spec(RefusalSpec):
        divergence: Divergence = Field("tv", description="The f-divergence that is maximised; the authors' "
                                                         "experiments use kl, js, pearson and tv.")

    card = Card(
        name="flat", kind="objective",
        summary="maximise an f-divergence between a template answer and the forget answer",
        paper="Wang et al. 2024, Loss Adjustment with Only Forget Data (arXiv 2410.11143, ICLR 2025)",
        formula="L = mean_seq -g(v_e) + f*(g(v_f)), v = mean_t p(y_t | x, y_<t) of template e and forget answer f",
        defaults="total variation; lr 2e-7 (Llama-2-7B, Harry Potter) to 1e-5, batch 4 to 16 times 4, 5 epochs, "
                 "weight decay 0.01 (the authors' repository); a template drawn from about 100 refusals at every step",
        needs=frozenset({"questions"}),
        model_needs=frozenset({"logp", "weights"}),
        deviations=("g and f* are applied to each row and then averaged; the authors average probabilities over the "
                    "batch first, which makes the loss depend on the split into micro-batches",
                    "the authors' code inverts the sign of both parts of reverse KL and squared Hellinger, and of the "
                    "template's part of Neyman, and evaluates Neyman's conjugate at v; here all follow the definition",
                    "the mean probability is over answer tokens; the authors' code counts all other positions as zeros",
                    "templates are built-in refusals unless refusals= names a file, such as one of unrelated answers",
                    "running text has no question, so its template follows an empty prompt",
                    "retain answers survive long training with retain_nll only: without it, a tiny model declines "
                    "retain questions too"),
    )
    reads = ("forget", "refusal")
    space = {"divergence": ("choice", *CURVES), "weight": ("log", 0.1, 4.0)}
    must_show = (
        Property("pulls_apart", {}, "every divergence lowers v_f and raises v_e, with the implied weights"),
        Property("values_at_the_ends", {}, "known values where one answer is certain and the other impossible"),
        Property("conjugate_is_fenchels", {}, "f*(g(v)) is the supremum of u g(v) - f(u)"),
        Property("mean_of_probabilities", {}, "v is the masked mean token probability, row by row"),
        Property("no_reference", {}, "no copy of the model is loaded"),
        Property("forgets", {}, "the loss of forget answers grows"),
        Property("outlasts_ascent", {}, "bounded: ten times the steps that ga needs to collapse leave retain "
                                        "answers intact, with a retain term"),
    )

    def sides(self, example: Example, task: Task, rng: random.Random) -> dict[str, Example]:
        return {"forget": example, "refusal": refuse(example, self.spec.refusals, rng)}

    def terms(self, step: Step) -> dict[str, Term]:
        template_B, forget_B = (mean_probability(step.answers(side)) for side in ("refusal", "forget"))
        return {"flat": sequence_mean(flat(template_B, forget_B, self.spec.divergence), "forget")}
