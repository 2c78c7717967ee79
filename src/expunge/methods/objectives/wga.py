"""Weighted gradient ascent."""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from expunge.methods._lib.weighted_likelihood import WeightedLikelihood
from expunge.methods.base import WeightedSpec
from expunge.plugin import Card, Property


def wga_weight(logp_N: Tensor, alpha: float) -> Tensor:
    """p^alpha per token from its log-prob; forgotten tokens have little weight."""
    return logp_N.exp().pow(alpha)


class WGA(WeightedLikelihood):
    """Gradient ascent with each token weighted by a power of its probability."""

    class Spec(WeightedSpec):
        alpha: float = Field(1.0, ge=0, description="Exponent of the probability; 0 is ga, which is unbounded.")

    card = Card(
        name="wga", kind="objective",
        summary="gradient ascent with every token weighted by a power of its probability",
        paper="Wang et al. 2025, Rethinking LLM Unlearning Objectives (arXiv 2502.19301, ICLR 2025)",
        formula="L = (1/n_tokens) * sum_t stopgrad(p_t^alpha) log p_t",
        defaults="alpha 1 (open-unlearning; 5 elsewhere), AdamW, lr 1e-5 (Phi 2e-5), batch 16, 5 epochs, no weight "
                 "decay (the authors); usually with a retain term, as in wga + retain_kl",
        model_needs=frozenset({"logp", "weights"}),
        deviations=("the mean is over the tokens of the whole optimizer step, not of each micro-batch",),
    )
    space = {"alpha": ("uniform", 0.1, 7.0), "weight": ("log", 0.05, 2.0)}
    must_show = (
        Property("reduces_to", {"other": "ga", "options": {"alpha": 0.0}, "at": "moved"},
                 "exponent 0 weighs all tokens alike"),
        Property("weight_is", {"options": {"alpha": 1.5}}, "p^alpha, detached: its own derivative would "
                                                           "invert the sign at small p"),
        Property("spares_unlikely", {"options": {"alpha": 5.0}, "share": 0.01},
                 "at exponent 5 a token below 0.05 gets less than a hundredth of one at 0.9"),
        Property("finite_at_the_edges", {}, "p = 0 and p = 1 are ordinary values"),
        Property("no_reference", {}, "no copy of the model is loaded"),
        Property("forgets", {}, "the loss of forget answers grows"),
        Property("settles_at_zero", {}, "the loss converges to 0"),
    )

    @property
    def unbounded(self) -> bool:
        return self.spec.alpha == 0

    def weight(self, logp_N: Tensor, reference_N: Tensor | None) -> Tensor:
        return wga_weight(logp_N, self.spec.alpha)
