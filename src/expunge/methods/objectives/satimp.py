"""SatImp: gradient ascent on tokens that are neither certain nor forgotten."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from expunge.methods._lib.weighted_likelihood import WeightedLikelihood
from expunge.methods.base import WeightedSpec
from expunge.plugin import Card, Property


def satimp_weight(logp_N: Tensor, beta1: float, beta2: float) -> Tensor:
    """p^beta1 (1 - p)^beta2 of every token: greatest at p = beta1 / (beta1 + beta2)."""
    return logp_N.exp().pow(beta1) * (-torch.expm1(logp_N)).pow(beta2)


class SatImp(WeightedLikelihood):
    """Ascent on tokens that are neither saturated (already forgotten) nor unimportant (certain anyway)."""

    class Spec(WeightedSpec):
        beta1: float = Field(5.0, ge=0, description="Exponent of p: how little weight forgotten tokens have. "
                                                    "0 is unbounded.")
        beta2: float = Field(1.0, ge=0, description="Exponent of 1 - p: how little weight certain tokens have; "
                                                    "0 is wga(alpha=beta1). The authors recommend 0.1.")

    card = Card(
        name="satimp", kind="objective",
        summary="gradient ascent on tokens that are neither certain nor forgotten",
        paper="Yang et al. 2025, Exploring Criteria of Loss Reweighting (arXiv 2505.11953, ICML 2025)",
        formula="L = (1/n_tokens) * sum_t stopgrad(p_t^beta1 (1 - p_t)^beta2) log p_t + 0.1 * R",
        defaults="beta1 5, beta2 1 of the port to open-unlearning, where a memorised answer (p near 1) has little "
                 "weight, so the start is slow; the authors recommend beta2 0.1 (0.60 in place of 0.0095 at p = 0.99). "
                 "Forget to retain 10:1, lr 1e-5, batch 16, 5 epochs",
        model_needs=frozenset({"logp", "weights"}),
        companions="retain_nll(weight=0.1)",
        deviations=("the public code is inconsistent on which side has the weight 1 and which 0.1; "
                    "here the forget side has 1, the default of its class",
                    "the mean is over the tokens of the whole optimizer step, not of each micro-batch"),
    )
    space = {"beta1": ("uniform", 0.5, 7.0), "beta2": ("uniform", 0.0, 2.0), "weight": ("log", 0.1, 10.0)}
    must_show = (
        Property("reduces_to", {"other": "wga(alpha=5)", "options": {"beta2": 0.0}, "at": "moved"},
                 "without its second factor it is wga"),
        Property("weight_is", {}, "p^beta1 (1 - p)^beta2 per token"),
        Property("peaks_between", {}, "no weight at p = 0 and p = 1, most at beta1 / (beta1 + beta2)"),
        Property("finite_at_the_edges", {}, "p = 0 and p = 1 are ordinary values"),
        Property("no_reference", {}, "no copy of the model is loaded"),
        Property("forgets", {"retain_rise": 0.3}, "the loss of forget answers grows, that of retain answers little"),
    )

    @property
    def unbounded(self) -> bool:
        return self.spec.beta1 == 0

    def weight(self, logp_N: Tensor, reference_N: Tensor | None) -> Tensor:
        return satimp_weight(logp_N, self.spec.beta1, self.spec.beta2)
