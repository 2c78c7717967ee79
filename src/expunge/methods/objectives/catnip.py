"""CATNIP: negative preference against the model's own doubt, token by token."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from expunge.methods._lib.weighted_likelihood import WeightedLikelihood, below_one, log1mexp
from expunge.methods.base import WeightedSpec
from expunge.plugin import Card, Property


def catnip_weight(logp_N: Tensor, beta: float, detach_reference: bool = True) -> Tensor:
    """2 p^beta / (p^beta + (1 - p)^beta) of every token; divided by 1 - p when 1 - p is differentiated too."""
    logp_N = below_one(logp_N)
    doubt_N = log1mexp(logp_N)
    weight_N = 2 * torch.sigmoid(beta * (logp_N - doubt_N))
    return weight_N if detach_reference else weight_N / doubt_N.exp()


class CATNIP(WeightedLikelihood):
    """NPO per token with 1 - p in the reference's place: the push follows the model's own confidence."""

    class Spec(WeightedSpec):
        beta: float = Field(1.0, gt=0, description="Inverse temperature on the log odds of each token.")
        detach_reference: bool = Field(True, description="Hold 1 - p while the gradient is taken, as a reference "
                                                         "is; False differentiates it too.")

    card = Card(
        name="catnip", kind="objective",
        summary="token-wise negative preference, calibrated by the model's own confidence",
        paper="Yang et al. 2026, CATNIP (arXiv 2602.02824)",
        formula="L = -(2/beta) * mean_seq mean_t log sigmoid(-beta * log(p_t / (1 - p_t)))",
        defaults="beta 1, the upper end of what is used for npo: the weight is then twice the probability, "
                 "in proportion to confidence as the abstract says; the published value is not known to us",
        model_needs=frozenset({"logp", "weights"}),
        deviations=("written from a second-hand account of the paper, which has no public code: whether 1 - p is "
                    "held, which beta is best and whether a factor per sequence remains are uncertain",
                    "p is held below 1 - 1e-6 only; no hold from below, under which a forgotten token "
                    "would be pushed for ever",
                    "alone, at its default, it drifts less than ga up to a forget loss of about 2 nats only; beside "
                    "a retain term, or with nothing held, at every loss measured",
                    "the logged value is the weighted log-likelihood, not the loss of the formula"),
    )
    reduction = "sequences"
    space = {"beta": ("log", 0.1, 3.0), "detach_reference": ("choice", True, False), "weight": ("log", 0.05, 2.0)}
    must_show = (
        Property("weight_is", {"options": {"beta": 0.5}}, "2 p^beta / (p^beta + (1 - p)^beta) per token"),
        Property("weight_is", {"options": {"beta": 0.5, "detach_reference": False}},
                 "and 1/(1 - p) times that when nothing is held"),
        Property("derives_from_its_loss", {}, "the weights are the derivative of the published loss"),
        Property("doubles_unlikelihood", {}, "with beta 1 and nothing held it is twice unlikelihood"),
        Property("weighs_confidence", {}, "1 at p = 0.5, towards 2 and 0 at the ends, growing with p"),
        Property("no_reference", {}, "no copy of the model is loaded"),
        Property("one_forward_a_step", {}, "each step runs the model once"),
        Property("repetition_changes_nothing", {}, "an answer twice as long has the same loss, which npo's has not"),
        Property("spares_unlikely", {"share": 0.05}, "tokens below 0.05 get little of the push on those above 0.9"),
        Property("spares_unlikely", {"share": 0.05, "options": {"detach_reference": False}, "on": "logits"},
                 "and on the logits too, when nothing is held"),
        Property("finite_at_the_edges", {}, "p = 0 and p = 1 are ordinary values"),
        Property("finite_at_the_edges", {"options": {"detach_reference": False}}, "with its pole at p = 1 too"),
        Property("forgets", {}, "the loss of forget answers grows"),
        Property("drifts_less", {"options": {"detach_reference": False}, "levels": (1.0, 2.0, 4.0, 6.0)},
                 "at equal forget loss retain answers suffer less than under ga, when nothing is held"),
        Property("drifts_less", {"levels": (1.0,)}, "by default this is so until the answers are gone"),
        Property("drifts_less", {"levels": (2.0, 4.0), "beside": "retain_nll"},
                 "and for as long as one likes next to a retain term"),
    )

    def weight(self, logp_N: Tensor, reference_N: Tensor | None) -> Tensor:
        return catnip_weight(logp_N, self.spec.beta, self.spec.detach_reference)
