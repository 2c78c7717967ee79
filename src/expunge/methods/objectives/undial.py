"""UNDIAL: self-distillation from a teacher whose memorised logits are lowered."""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from expunge.data.encoder import Batch
from expunge.methods._lib.edited_teacher import EditedTeacher, distribution, subtract
from expunge.methods.base import WeightedSpec
from expunge.plugin import Card, Property


def lowered(teacher_NV: Tensor, target_N: Tensor, strength: float) -> Tensor:
    """Teacher distribution after `strength` is subtracted from the logit of each true token, shape N V."""
    return distribution(subtract(teacher_NV, target_N, strength))


class UNDIAL(EditedTeacher):
    """Distil the original into itself with the memorised token's logit lowered: bounded, stable."""

    class Spec(WeightedSpec):
        strength: float = Field(10.0, ge=0, description="Amount subtracted from the true token's logit (kappa).")

    card = Card(
        name="undial", kind="objective",
        summary="self-distillation from the original with the true token's logit lowered",
        paper="Dong et al. 2024, UNDIAL (arXiv 2402.10052)",
        formula="L = mean_t CE(softmax(z0_t - kappa * onehot(y_t)), softmax(z_t))",
        defaults="kappa 10, lr 1e-4 (open-unlearning); kappa 3, 10 or 30 in the paper",
        needs=frozenset({"reference.logits"}),
        model_needs=frozenset({"distribution", "weights"}),
        deviations=("the mean is over supervised tokens only; the public port averages over prompt and padding "
                    "and lowers an unrelated logit there", "the optional focus on entity tokens is left out"),
    )
    space = {"strength": ("log", 1.0, 30.0), "weight": ("log", 0.1, 2.0)}
    must_show = (
        Property("zero_gradient_at_start", {"options": {"strength": 0.0}}, "with strength 0 the gradient is 0"),
        Property("forgets", {}, "the loss of forget answers grows"),
        Property("plateaus", {"options": {"strength": 3.0}, "unlike": "ga"},
                 "the optimum is a finite distribution, so longer training does not diverge"),
        Property("keeps_other_odds", {}, "the target keeps the odds among all other tokens"),
    )

    def edit(self, teacher_NV: Tensor, batch: Batch) -> Tensor:
        return subtract(teacher_NV, batch.target_N, self.spec.strength)
