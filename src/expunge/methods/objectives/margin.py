"""Logit-margin flattening: lowers the highest logit to the mean."""

from __future__ import annotations

from torch import Tensor

from expunge.methods._lib.weighted_likelihood import token_mean
from expunge.methods.base import Objective
from expunge.plugin import Card, Property
from expunge.training.step import Step, Term


def margin(logits_NV: Tensor) -> Tensor:
    """(max_v z - mean_v z)^2 of every row of logits, in squared nats, shape N; 0 only where all are equal.

    Without a softmax the gradient does not vanish while there is a margin: dL/dz is 2 m (1 - 1/V) on the
    highest logit and -2 m / V on every other, m the margin.
    """
    return (logits_NV.amax(-1) - logits_NV.mean(-1)).square()


class Margin(Objective):
    """Flatten the prediction at every answer token towards a uniform guess."""

    card = Card(
        name="margin", kind="objective",
        summary="flatten the logits of forget answers: a uniform guess at every token",
        paper="Entesari et al. 2025, Constrained Entropic Unlearning (arXiv 2506.05314, NeurIPS 2025)",
        formula="L = mean_t (max_v z_t[v] - mean_v z_t[v])^2 + R",
        defaults="lr 1e-5, batch 32, 10 epochs (TOFU); it is quadratic in logits, so the authors' multiplier of the "
                 "retain side starts at 50 to 100: retain_nll(weight=100) without a combiner that adapts it",
        model_needs=frozenset({"distribution", "weights"}),
        companions="retain_nll",
        deviations=("positions are those that predict a supervised token; the authors' code takes the positions of the "
                    "tokens, which excludes the first answer token and adds the position after the last",
                    "the retain side has the fixed weight of its term; the authors' constraint on it is a combiner",
                    "the mean is over the tokens of the whole optimizer step, not of each micro-batch"),
    )
    reads = ("forget",)
    space = {"weight": ("log", 1e-3, 1.0)}
    must_show = (
        Property("flat_is_zero", {}, "0 where all logits are equal and only there; a constant on all changes nothing"),
        Property("margin_gradient", {}, "2 m (1 - 1/V) on the highest logit and -2 m / V on the others"),
        Property("predicts_before", {}, "the positions are those before each answer token"),
        Property("never_negative", {}, "a square"),
        Property("no_reference", {}, "no copy of the model is loaded"),
        Property("forgets", {"options": {"weight": 0.01}, "retain_rise": 0.3}, "the loss of forget answers grows"),
        Property("ends_uniform", {"options": {"weight": 0.01}, "share": 0.9},
                 "the entropy of forget predictions nears that of a uniform guess"),
    )

    def terms(self, step: Step) -> dict[str, Term]:
        answers = step.answers("forget")
        return {"margin": token_mean(margin(answers.logits_NV.float()), answers, "forget")}
