"""Token-wise NPO, additionally weighted by probability."""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from expunge.methods._lib.weighted_likelihood import WeightedLikelihood
from expunge.methods.objectives.tnpo import TNPO, tnpo_weight
from expunge.methods.objectives.wga import wga_weight
from expunge.plugin import Card, Property


class WTNPO(WeightedLikelihood):
    """Token-wise NPO that also gives little weight to tokens the model finds unlikely."""

    class Spec(TNPO.Spec):
        alpha: float = Field(1.5, ge=0, description="Exponent of the probability; 0 is tnpo.")

    card = Card(
        name="wtnpo", kind="objective",
        summary="token-wise npo, additionally weighted by a power of the probability",
        paper="Wang et al. 2025, Rethinking LLM Unlearning Objectives (arXiv 2502.19301, ICLR 2025)",
        formula="L = (1/n_tokens) * sum_t stopgrad(2 p_t^(beta+alpha) / (p_t^beta + p0_t^beta + epsilon)) log p_t",
        defaults="beta 4, alpha 1.5, epsilon 0 (1e-5 in the authors' code), AdamW, lr 1e-5 (Phi 2e-5), batch 16, "
                 "5 epochs, no weight decay (the authors); usually with a retain term, as in wtnpo + retain_kl",
        needs=frozenset({"reference.logp"}),
        model_needs=frozenset({"logp", "weights"}),
        deviations=("epsilon is 0 unless asked for: a sigmoid of the log ratio needs none",
                    "one version of the authors' code fixes beta at 0.1; here beta and alpha are options",
                    "the mean is over the tokens of the whole optimizer step, not of each micro-batch"),
    )
    space = {"beta": ("log", 0.5, 8.0), "alpha": ("uniform", 0.1, 5.0), "weight": ("log", 0.05, 2.0)}
    must_show = (
        Property("reduces_to", {"other": "tnpo", "options": {"alpha": 0.0}, "at": "moved"}, "exponent 0 is tnpo"),
        Property("reduces_to", {"other": "wga(alpha=1.5)"}, "at the reference it is wga"),
        Property("weight_is", {}, "2 p^(beta+alpha) / (p^beta + p0^beta) per token"),
        Property("finite_at_the_edges", {}, "p = 0 and p = 1 are ordinary values"),
        Property("forgets", {}, "the loss of forget answers grows"),
    )

    def weight(self, logp_N: Tensor, reference_N: Tensor | None) -> Tensor:
        assert reference_N is not None  # the card needs it
        token_N = tnpo_weight(logp_N, reference_N, self.spec.beta, self.spec.epsilon)
        return wga_weight(logp_N, self.spec.alpha) * token_N
