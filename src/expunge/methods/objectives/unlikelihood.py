"""Unlikelihood."""

from __future__ import annotations

import torch
from torch import Tensor

from expunge.methods._lib.weighted_likelihood import WeightedLikelihood, below_one
from expunge.plugin import Card, Property


def unlikelihood_weight(logp_N: Tensor) -> Tensor:
    """p / (1 - p) per token, which gives the gradient of -log(1 - p)."""
    logp_N = below_one(logp_N)
    return logp_N.exp() / -torch.expm1(logp_N)


class Unlikelihood(WeightedLikelihood):
    """Minimise -log(1 - p): the gradient is large while a token is certain and 0 once it is forgotten."""

    card = Card(
        name="unlikelihood", kind="objective",
        summary="unlikelihood: lower the probability of forget tokens until they are improbable",
        paper="Welleck et al. 2019, Neural Text Generation with Unlikelihood Training (arXiv 1908.04319)",
        formula="L = -(1/n_tokens) * sum_t log(1 - p_t), as stopgrad(p_t / (1 - p_t)) log p_t",
        defaults="none published for forgetting; optimisation as for ga",
        model_needs=frozenset({"logp", "weights"}),
        deviations=("the paper adds it to the likelihood of the true text, with earlier tokens of the context as the "
                    "unwanted ones; here the forget answers are unwanted and a retain term keeps the rest",
                    "p is clamped to at most 1 - 1e-6, so the gradient of a token above that fades"),
    )
    space = {"weight": ("log", 0.05, 2.0)}
    must_show = (
        Property("weight_is", {}, "p / (1 - p) per token"),
        Property("mirrors_ascent", {}, "on the logits p_y and -p_v p_y / (1 - p_y): most at p = 1, none at p = 0, "
                                       "the reverse of gradient ascent"),
        Property("finite_at_the_edges", {}, "p = 0 and p = 1 are ordinary values"),
        Property("no_reference", {}, "no copy of the model is loaded"),
        Property("forgets", {}, "the loss of forget answers grows"),
        Property("settles_at_zero", {}, "the gradient of forgotten tokens vanishes"),
    )

    def weight(self, logp_N: Tensor, reference_N: Tensor | None) -> Tensor:
        return unlikelihood_weight(logp_N)
