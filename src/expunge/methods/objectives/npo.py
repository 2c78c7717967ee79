"""Negative preference optimisation."""

from __future__ import annotations

from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from expunge.methods._lib.weighted_likelihood import log_ratio, sequence_mean
from expunge.methods.base import Objective, WeightedSpec
from expunge.plugin import Card, Property
from expunge.training.step import Step, Term


def npo(log_ratio_B: Tensor, beta: float) -> Tensor:
    """Loss per sequence from log(P / P0), both sums over answer tokens: (2/beta) log(1 + (P/P0)^beta)."""
    return -(2 / beta) * F.logsigmoid(-beta * log_ratio_B)


class NPO(Objective):
    """Lower the likelihood of forget answers below the original's, with a weight that fades as it falls."""

    class Spec(WeightedSpec):
        beta: float = Field(0.1, gt=0, description="Inverse temperature: how soon the weight of an answer fades.")

    card = Card(
        name="npo", kind="objective",
        summary="negative preference optimisation: lower answers below the original, bounded",
        paper="Zhang et al. 2024, Negative Preference Optimization (arXiv 2404.05868)",
        formula="L = -(2/beta) * mean_seq log sigmoid(-beta * log(P / P0))",
        defaults="beta 0.1, lr 1e-5, 10 epochs, weight decay 0.01 (the authors' repository)",
        needs=frozenset({"reference.logp"}),
        model_needs=frozenset({"logp", "weights"}),
    )
    reads = ("forget",)
    space = {"beta": ("log", 0.02, 1.0), "weight": ("log", 0.05, 2.0)}
    must_show = (
        Property("loss_at_start", {"per_beta": 2.0}, "(2/beta) log 2 when the model is its reference"),
        Property("reduces_to", {"other": "ga_sequence", "options": {"beta": 1e-4}, "at": "moved"},
                 "small beta is gradient ascent"),
        Property("reduces_to", {"other": "ga_sequence"}, "at the reference every weight is one"),
        Property("weight_fades", {"most": 2.0}, "2 P^beta / (P^beta + P0^beta), in (0, 2)"),
        Property("weight_is", {}, "the gradient is that of the token-weighted family, one weight per answer"),
        Property("never_negative", {}, "bounded below by zero"),
        Property("forgets", {}, "the loss of forget answers grows"),
        Property("slower_than", {"other": "ga_sequence"}, "the gradient fades as forgetting proceeds"),
    )

    def terms(self, step: Step) -> dict[str, Term]:
        return {"npo": sequence_mean(npo(log_ratio(step, "forget"), self.spec.beta), "forget")}
