"""Keep the original's activations on the retain rows."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from expunge.methods._lib.activations import counted, masked_mse, over_counted, published_block
from expunge.methods.base import Retain, WeightedSpec
from expunge.plugin import Card, Property
from expunge.training.step import Step, Term


class ActivationMatch(Retain):
    """Match the hidden states of retain text to the original's at one layer."""

    class Spec(WeightedSpec):
        layer: int | None = Field(None, ge=0, description="Block with matched output; by default 7/32 of the depth.")
        mask: Literal["answer", "all"] = Field("all", description="Positions that count: every real token or "
                                                                  "the answer only.")
        distance: Literal["squared", "length"] = Field("squared", description=(
            "squared: mean of the squared differences; length: length of the difference, over the mean length of the "
            "row's states in the original"))

    card = Card(
        name="activation_match", kind="retain",
        summary="match the original's activations on the retain rows",
        paper="Li et al. 2024, The WMDP Benchmark (arXiv 2403.03218), the retain term of RMU",
        formula="R = mean_t mean_d (H_l(x_r) - H0_l(x_r))^2",
        defaults="weight 1; rmu sets its alpha (1200)",
        needs=frozenset({"retain", "reference.hidden"}),
        model_needs=frozenset({"hidden", "weights"}),
        deviations=("padding is never counted",
                    "distance=length is that of CIR (arXiv 2509.11816), with the mean length of a row's states in "
                    "place of that of a batch: no row depends on others"),
    )
    space = {"weight": ("log", 0.1, 2000.0)}
    must_show = (
        Property("zero_at_start", {}, "value and gradient are zero while the model is its reference"),
        Property("never_negative", {}, "a squared distance"),
    )

    def terms(self, step: Step) -> dict[str, Term]:
        batch = step.batches["retain"]
        block = published_block(len(step.subject.blocks)) if self.spec.layer is None else self.spec.layer
        hidden_BTD = step.hidden("retain", block)
        reference_BTD = step.reference.hidden(batch, block)
        if self.spec.distance == "squared":
            return {"activation_match": masked_mse(hidden_BTD, reference_BTD, batch, self.spec.mask, "retain")}
        length_BT = reference_BTD.norm(dim=-1) * counted(batch, self.spec.mask)
        mean_B1 = length_BT.sum(1, keepdim=True) / counted(batch, self.spec.mask).sum(1, keepdim=True)
        apart_BT = (hidden_BTD - reference_BTD).norm(dim=-1) / mean_B1
        return {"activation_match": over_counted(apart_BT, batch, self.spec.mask, "retain")}
