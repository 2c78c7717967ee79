"""NPO's weight, per token."""

from __future__ import annotations

import math

import torch
from pydantic import Field
from torch import Tensor

from expunge.methods._lib.weighted_likelihood import WeightedLikelihood
from expunge.methods.base import WeightedSpec
from expunge.plugin import Card, Property


def tnpo_weight(logp_N: Tensor, reference_N: Tensor, beta: float, epsilon: float = 0.0) -> Tensor:
    """2 p^beta / (p^beta + p0^beta + epsilon) of every token, as a sigmoid so that no power can underflow."""
    if epsilon > 0:
        others_N = torch.logaddexp(beta * reference_N, torch.full_like(reference_N, math.log(epsilon)))
        return 2 * torch.sigmoid(beta * logp_N - others_N)
    log_ratio_N = (logp_N - reference_N).nan_to_num(nan=0.0)  # probability 0 in both models counts as no change
    return 2 * torch.sigmoid(beta * log_ratio_N)


class TNPO(WeightedLikelihood):
    """Lower every token's probability below the original's, with a weight that fades as it falls."""

    class Spec(WeightedSpec):
        beta: float = Field(4.0, gt=0, description="Inverse temperature: how soon the weight of a token fades.")
        epsilon: float = Field(0.0, ge=0, description="Added to the denominator of the weight, so that tokens that "
                                                      "both models find unlikely fade; the authors' code has 1e-5.")

    card = Card(
        name="tnpo", kind="objective",
        summary="token-wise npo: the weight of a token fades once it is below the original",
        paper="Wang et al. 2025, Rethinking LLM Unlearning Objectives (arXiv 2502.19301, ICLR 2025)",
        formula="L = (1/n_tokens) * sum_t stopgrad(2 p_t^beta / (p_t^beta + p0_t^beta + epsilon)) log p_t",
        defaults="beta 4, epsilon 0 (1e-5 in the authors' code), AdamW, lr 1e-5 (Phi 2e-5), batch 16, 5 epochs, "
                 "no weight decay (the authors); usually with a retain term, as in tnpo + retain_kl",
        needs=frozenset({"reference.logp"}),
        model_needs=frozenset({"logp", "weights"}),
        deviations=("epsilon is 0 unless asked for: a sigmoid of the log ratio needs none",
                    "the mean is over the tokens of the whole optimizer step, not of each micro-batch"),
    )
    space = {"beta": ("log", 0.5, 8.0), "weight": ("log", 0.05, 2.0)}
    must_show = (
        Property("reduces_to", {"other": "ga"}, "at the reference every weight is one"),
        Property("reduces_to", {"other": "ga", "options": {"beta": 1e-4}, "at": "moved"},
                 "small beta is gradient ascent"),
        Property("weight_is", {}, "2 p^beta / (p^beta + p0^beta) per token"),
        Property("finite_at_the_edges", {}, "p = 0 and p = 1 are ordinary values"),
        Property("forgets", {}, "the loss of forget answers grows"),
        Property("settles_at_zero", {}, "the gradient vanishes when the tokens are below the original"),
    )

    def weight(self, logp_N: Tensor, reference_N: Tensor | None) -> Tensor:
        assert reference_N is not None  # the card needs it
        return tnpo_weight(logp_N, reference_N, self.spec.beta, self.spec.epsilon)
