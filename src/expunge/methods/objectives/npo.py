"""Negative preference optimisation."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from expunge.methods._lib.weighted_likelihood import log_ratio, sequence_mean, token_log_ratios
from expunge.methods.base import Objective, WeightedSpec
from expunge.plugin import Card, Property
from expunge.training.step import Step, Term


def npo(log_ratio_B: Tensor, beta: float) -> Tensor:
    """Loss per sequence from log(P / P0): (2/beta) log(1 + (P/P0)^beta). As published, both are sums over tokens."""
    return -(2 / beta) * F.logsigmoid(-beta * log_ratio_B)


class NPO(Objective):
    """Lower the likelihood of forget answers below the original's, with a weight that fades as it falls."""

    class Spec(WeightedSpec):
        beta: float = Field(0.1, gt=0, description="Inverse temperature: how soon the weight of an answer fades.")
        ratio: Literal["sum", "mean", "batch"] = Field(
            "sum", description="log(P / P0): sum over the tokens of an answer, as published; mean over them; or one "
                               "mean over all tokens of a micro-batch, which then depends on --batch-size (WMDP "
                               "settings of sam and smooth).")

    card = Card(
        name="npo", kind="objective",
        summary="negative preference optimisation: lower answers below the original, bounded",
        paper="Zhang et al. 2024, Negative Preference Optimization (arXiv 2404.05868)",
        formula="L = -(2/beta) * mean_seq log sigmoid(-beta * log(P / P0))",
        defaults="beta 0.1, ratio sum, lr 1e-5, 10 epochs, weight decay 0.01 (the authors' repository); WMDP with sam: "
                 "ratio batch, beta 0.015, micro-batches of 4 texts (arXiv 2502.05374)",
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
        return {"npo": sequence_mean(npo(self._log_ratio(step), self.spec.beta), "forget")}

    def _log_ratio(self, step: Step) -> Tensor:
        """log(P / P0) of every answer, shape B; the same number for all of them when it is that of the batch."""
        if self.spec.ratio == "sum":
            return log_ratio(step, "forget")
        answers, ratio_N = step.answers("forget"), token_log_ratios(step, "forget")
        return answers.row_means(ratio_N) if self.spec.ratio == "mean" else ratio_N.mean().expand(len(answers.batch))
