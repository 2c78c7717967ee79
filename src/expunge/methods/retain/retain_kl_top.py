"""Keep the original's likeliest tokens on the retain rows."""

from __future__ import annotations

from pydantic import Field

from expunge.methods._lib.divergence import coarse_kl
from expunge.methods._lib.weighted_likelihood import token_mean
from expunge.methods.base import WeightedSpec
from expunge.methods.retain.retain_kl import RetainKL
from expunge.plugin import Card, Property
from expunge.training.step import Step, Term


class RetainKLTop(RetainKL):
    """retain_kl with 2 k + 2 cached numbers per token; the original runs once, unless another term needs more of it."""

    class Spec(WeightedSpec):
        k: int = Field(64, ge=1, description="Number of the original's likeliest tokens that are kept separately.")

    card = Card(
        name="retain_kl_top", kind="retain",
        summary="KL over the original's k likeliest tokens and all other tokens as one event",
        paper="TOFU, Maini et al. 2024 (arXiv 2401.06121), KL minimisation; here over a coarser vocabulary",
        formula="R = mean_t [sum_{v in K} q0_v log (q0_v / q_v) + r0 log (r0 / r)], K the k likeliest of q0, "
                "r = 1 - sum_{v in K} q_v, r0 likewise",
        defaults="weight 1, as retain_kl; k = 64 is our choice",
        needs=frozenset({"retain", "reference.likeliest"}),
        model_needs=frozenset({"distribution", "weights"}),
        deviations=(*RetainKL.card.deviations,
                    "smaller than retain_kl by r0 times the divergence between the original's other tokens and the "
                    "model's: changes among these are not penalised",),
    )
    must_show = (
        *RetainKL.must_show,
        Property("below_whole_divergence", {}, "at most retain_kl, nearer to it with k, and equal to it at k = V"),
    )

    def terms(self, step: Step) -> dict[str, Term]:
        answers = step.answers("retain")
        kl_N = coarse_kl(step.reference.likeliest(answers.batch, self.spec.k), answers.source)
        return {"retain_kl_top": token_mean(kl_N, answers, "retain")}
