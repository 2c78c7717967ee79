"""RMU: steer forget activations towards a random direction."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from expunge.methods._lib.activations import masked_mse, published_block
from expunge.methods.base import Objective, WeightedSpec
from expunge.plugin import Card, Property
from expunge.seeding import derive
from expunge.training.step import Step, Term


def control_vector(size: int, length: float, seed: int) -> Tensor:
    """A direction with non-negative entries drawn from U[0, 1), scaled to `length`; shape D."""
    generator = torch.Generator().manual_seed(derive(seed, "rmu control vector"))
    direction_D = torch.rand(size, generator=generator)
    return length * direction_D / direction_D.norm()


class RMU(Objective):
    """Move the hidden states of forget text towards a fixed random vector at one layer."""

    class Spec(WeightedSpec):
        layer: int | None = Field(None, ge=0, description="Block whose output is steered; by default 7/32 of the "
                                                          "depth, at least 1 (layer 7 of Zephyr-7B).")
        coefficient: float = Field(6.5, ge=0, description="Norm of the control vector; use 2 to 5 times "
                                                          "the mean activation norm.")
        alpha: float = Field(1200.0, ge=0, description="Weight of activation_match, which keeps the states of "
                                                            "retain rows.")
        mask: Literal["answer", "all"] = Field("all", description="Positions that count: every real token, "
                                                                  "as published, or the answer only.")
        seed: int = Field(0, description="Seed of the control vector.")

    card = Card(
        name="rmu", kind="objective", target="capability",
        summary="representation misdirection: steer forget activations to a random vector",
        paper="Li et al. 2024, The WMDP Benchmark (arXiv 2403.03218)",
        formula="L = mean_t mean_d (H_l(x_f) - c u)^2 + alpha * mean_t mean_d (H_l(x_r) - H0_l(x_r))^2",
        defaults="Zephyr-7B: layer 7, coefficient 6.5, alpha 1200, lr 5e-5, down projections of layers 5 to 7",
        model_needs=frozenset({"hidden", "weights"}),
        companions="activation_match + layers(down projections of layer-2 to layer)",
        deviations=("padding is never counted; the authors' code averages over it too",
                    "gradients are clipped at norm 1 by the default optimizer; the authors do not clip",
                    "one forget topic with one control vector; alternating topics are separate runs",
                    "the down projections are selected by name, not by position in the parameter list"),
    )
    space = {"coefficient": ("log", 1.0, 100.0), "alpha": ("log", 0.1, 2000.0)}
    must_show: ClassVar[tuple[Property, ...]] = (
        Property("points_positive", {}, "the control vector is drawn from U[0, 1), fixed, and of the given norm"),
        Property("steers", {}, "forget activations reach the control vector's direction and norm"),
        Property("moves_only", {"modules": "mlp_out"}, "everything outside the three layers keeps its bits"),
        Property("retain_term_starts_at_zero", {}, "its value is 0 before the first step"),
        Property("holds_retain", {"options": {"coefficient": 12.0}, "drift": 0.05},
                 "with the published alpha, retain activations stay where they were"),
        Property("suppresses", {"options": {"coefficient": 0.0, "alpha": 0.0}}, "with norm 0 activations vanish"),
        Property("forgets", {"options": {"coefficient": 12.0, "alpha": 30.0}, "lr": 5e-3, "steps": 60,
                             "retain_rise": 0.1},
                 "the loss of forget answers grows and that of retain answers does not"),
        Property("stops_at_its_layer", {}, "stopping the forward pass early gives the same gradients"),
    )

    def block(self, depth: int) -> int:
        return published_block(depth) if self.spec.layer is None else self.spec.layer

    def companions(self, depth: int) -> str:
        layer = self.block(depth)
        return (f"activation_match(layer={layer}, weight={self.spec.alpha!r}, mask={self.spec.mask!r}) + "
                f"layers(index='{max(layer - 2, 0)}-{layer}', modules='mlp_out')")

    def terms(self, step: Step) -> dict[str, Term]:
        batch = step.batches["forget"]
        hidden_BTD = step.hidden("forget", self.block(len(step.subject.blocks)))
        target_D = control_vector(hidden_BTD.shape[-1], self.spec.coefficient, self.spec.seed).to(hidden_BTD)
        return {"rmu": masked_mse(hidden_BTD, target_D, batch, self.spec.mask, "forget")}
