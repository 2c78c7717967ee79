"""Keep the original's distribution on the retain rows."""

from __future__ import annotations

from typing import ClassVar

from expunge.methods._lib.divergence import kl
from expunge.methods._lib.weighted_likelihood import token_mean
from expunge.methods.base import Retain
from expunge.plugin import Card, Property
from expunge.training.step import Step, Term


class RetainKL(Retain):
    """KL divergence from the original on the retain rows."""

    card = Card(
        name="retain_kl", kind="retain",
        summary="KL from the original's distribution on the retain answers",
        paper="TOFU, Maini et al. 2024 (arXiv 2401.06121), KL minimisation",
        formula="R = mean_t sum_v q0_v (log q0_v - log q_v), q0 the original",
        defaults="weight 1",
        needs=frozenset({"retain", "reference.logits"}),
        model_needs=frozenset({"distribution", "weights"}),
        deviations=("the mean is over supervised tokens; TOFU's code averages over prompt and padding too, "
                    "so that its weight depends on the padding",),
    )
    reads = ("retain",)
    space = {"weight": ("log", 0.2, 5.0)}
    must_show: ClassVar[tuple[Property, ...]] = (
        Property("zero_at_start", {}, "value and gradient are zero while the model is its reference"),
        Property("leaves_first_update", {}, "its first gradient is 0: the first update is the objective's"),
        Property("never_negative", {}, "a divergence"),
        Property("protects_retain", {}, "the loss of retain answers stays lower than without it"),
    )

    def terms(self, step: Step) -> dict[str, Term]:
        answers = step.answers("retain")
        kl_N = kl(step.reference.answers(answers.batch).source, answers.source)
        return {"retain_kl": token_mean(kl_N, answers, "retain")}
