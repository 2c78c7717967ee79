"""CATNIP: negative preference optimisation per token, with 1 - p as the reference."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from expunge.methods._lib.weighted_likelihood import WeightedLikelihood, below_one, log1mexp
from expunge.methods.base import WeightedSpec
from expunge.plugin import Card, Property


def catnip_weight(logp_N: Tensor, beta: float, detach_reference: bool = True) -> Tensor:
    """2 p^beta / (p^beta + (1 - p)^beta) per token; divided by 1 - p if 1 - p is differentiated too."""
    logp_N = below_one(logp_N)
    log_rest_N = log1mexp(logp_N)
    weight_N = 2 * torch.sigmoid(beta * (logp_N - log_rest_N))
    return weight_N if detach_reference else weight_N / log_rest_N.exp()


class CATNIP(WeightedLikelihood):
    """NPO per token with 1 - p in place of the reference: the weight depends on the model's own confidence."""

    class Spec(WeightedSpec):
        beta: float = Field(1.0, gt=0, description="Inverse temperature on the log odds of each token.")
        detach_reference: bool = Field(True, description="Detach 1 - p, as a reference is; False "
                                                         "differentiates it too.")

    card = Card(
        name="catnip", kind="objective",
        summary="token-wise negative preference, calibrated by the model's own confidence",
        paper="Yang et al. 2026, CATNIP (arXiv 2602.02824)",
        formula="L = -(2/beta) * mean_seq mean_t log sigmoid(-beta * log(p_t / (1 - p_t)))",
        defaults="beta 1, the upper end of values used for npo: the weight is then twice the probability, "
                 "proportional to confidence as the abstract says; the published value is unknown to us",
        model_needs=frozenset({"logp", "weights"}),
        deviations=("written from a secondary description of the paper, which has no public code: it is uncertain "
                    "whether 1 - p is detached, which beta is used and whether a factor per sequence remains",
                    "p is clamped to at most 1 - 1e-6; there is no lower clamp, with which the weight of a forgotten "
                    "token would never vanish",
                    "without a retain term and with default options it drifts less than ga only up to a forget loss of "
                    "about 2 nats; with a retain term, or with nothing detached, at every loss measured",
                    "the logged value is the weighted log-likelihood, not the loss of the formula"),
    )
    reduction = "sequences"
    space = {"beta": ("log", 0.1, 3.0), "detach_reference": ("choice", True, False), "weight": ("log", 0.05, 2.0)}
    must_show = (
        Property("weight_is", {"options": {"beta": 0.5}}, "2 p^beta / (p^beta + (1 - p)^beta) per token"),
        Property("weight_is", {"options": {"beta": 0.5, "detach_reference": False}},
                 "and 1/(1 - p) times that if nothing is detached"),
        Property("derives_from_its_loss", {}, "the weights are the derivative of the published loss"),
        Property("doubles_unlikelihood", {}, "with beta 1 and nothing detached it is twice unlikelihood"),
        Property("weighs_confidence", {}, "1 at p = 0.5, towards 2 and 0 at the ends, growing with p"),
        Property("no_reference", {}, "no copy of the model is loaded"),
        Property("one_forward_a_step", {}, "each step runs the model once"),
        Property("repetition_changes_nothing", {}, "an answer twice as long has the same loss, unlike with npo"),
        Property("spares_unlikely", {"share": 0.05}, "tokens below 0.05 have little weight beside those above 0.9"),
        Property("spares_unlikely", {"share": 0.05, "options": {"detach_reference": False}, "on": "logits"},
                 "and on the logits too, if nothing is detached"),
        Property("finite_at_the_edges", {}, "p = 0 and p = 1 are ordinary values"),
        Property("finite_at_the_edges", {"options": {"detach_reference": False}}, "with its pole at p = 1 too"),
        Property("forgets", {}, "the loss of forget answers grows"),
        Property("drifts_less", {"options": {"detach_reference": False}, "levels": (1.0, 2.0, 4.0, 6.0)},
                 "at equal forget loss retain answers suffer less than under ga, if nothing is detached"),
        Property("drifts_less", {"levels": (1.0,)}, "by default this is so until the answers are gone"),
        Property("drifts_less", {"levels": (2.0, 4.0), "beside": "retain_nll"},
                 "and at any forget loss with a retain term"),
    )

    def weight(self, logp_N: Tensor, reference_N: Tensor | None) -> Tensor:
        return catnip_weight(logp_N, self.spec.beta, self.spec.detach_reference)
