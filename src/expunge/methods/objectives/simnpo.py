"""Simple NPO: length-normalised and without a reference."""

from __future__ import annotations

from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from expunge.methods._lib.weighted_likelihood import sequence_mean
from expunge.methods.base import Objective, WeightedSpec
from expunge.plugin import Card, Property
from expunge.training.step import Step, Term


def simnpo(mean_nll_B: Tensor, beta: float, delta: float) -> Tensor:
    """Loss per sequence from its mean token loss: -(2/beta) log sigmoid(beta * (nll - delta))."""
    return -(2 / beta) * F.logsigmoid(beta * (mean_nll_B - delta))


class SimNPO(Objective):
    """NPO on the mean token loss: independent of answer length, and without a reference."""

    class Spec(WeightedSpec):
        beta: float = Field(4.5, gt=0, description="Inverse temperature on the mean token loss.")
        delta: float = Field(0.0, description="Margin in nats per token (the paper's gamma is beta * delta).")
        weight: float = Field(0.125, ge=0, description="Coefficient of this term in the loss; 0 removes it.")

    card = Card(
        name="simnpo", kind="objective",
        summary="reference-free NPO on the length-normalised loss",
        paper="Fan et al. 2024, Simplicity Prevails (arXiv 2410.07163)",
        formula="L = -(2/beta) * mean_seq log sigmoid(beta * (S/n - delta)), S = summed loss of n tokens",
        defaults="TOFU forget10 of the authors' repository: beta 4.5, coefficient 0.125, delta 0, lr 1e-5, 10 epochs",
        model_needs=frozenset({"logp", "weights"}),
        companions="retain_nll",
    )
    reads = ("forget",)
    space = {"beta": ("log", 0.5, 8.0), "weight": ("log", 0.02, 2.0)}
    must_show = (
        Property("no_reference", {}, "no copy of the model is loaded"),
        Property("weight_is", {"options": {"delta": 0.5}},
                 "the gradient is that of the token-weighted family: (2/n) sigmoid(-beta (S/n - delta))"),
        Property("length_blind", {}, "equal mean loss gives equal weight at any length"),
        Property("short_not_slower", {}, "short memorised answers are forgotten no slower than long ones"),
        Property("forgets", {}, "the loss of forget answers grows"),
    )

    def terms(self, step: Step) -> dict[str, Term]:
        answers = step.answers("forget")
        mean_nll_B = -answers.row_means(answers.logp_N)
        return {"simnpo": sequence_mean(simnpo(mean_nll_B, self.spec.beta, self.spec.delta), "forget")}
