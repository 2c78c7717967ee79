"""Hybrid: alternating phases of Adam and of zeroth-order steps, the last one zeroth order."""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field

from expunge.methods.base import Optimizer, Parameters, RateSpec
from expunge.methods.optimizers.zeroth_order import adaptive_step
from expunge.plugin import Card, Property
from expunge.training.zeroth import Probing


class TwoPhases(torch.optim.AdamW):
    """AdamW, or `adaptive_step` while a group is marked `estimated`; each keeps its own moments."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        if not any(group.get("estimated") for group in self.param_groups):
            super().step()
            return
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:  # AdamW initialises an empty state only
                    state |= {"step": torch.tensor(0.0), "exp_avg": torch.zeros_like(parameter),
                              "exp_avg_sq": torch.zeros_like(parameter)}
                adaptive_step(parameter, state, {**group, "lr": group["lr"] * group["ratio"]})


class Hybrid(Optimizer):
    """Alternate Adam with zeroth-order steps, which the paper finds harder to relearn."""

    class Spec(RateSpec):
        period: int = Field(20, ge=1, description="Steps of each phase. The last phase is zeroth order and complete; "
                                                  "the first may be shorter.")
        queries: int = Field(4, ge=1, description="Directions per zeroth-order step, two forward passes each.")
        radius: float = Field(1e-3, gt=0, description="Distance of the two points from the weights, root mean "
                                                      "square per weight.")
        ratio: float = Field(1.0, gt=0, description="Learning rate of the zeroth-order phases over that of Adam.")
        beta1: float = Field(0.9, ge=0, lt=1, description="Decay of the first moments.")
        beta2: float = Field(0.999, ge=0, lt=1, description="Decay of the second moments.")
        eps: float = Field(1e-8, gt=0, description="Added to the denominators.")

    card = Card(
        name="hybrid", kind="optimizer",
        summary="alternating phases of Adam and of zeroth-order steps, the last one zeroth order",
        paper="Downgrade to Upgrade: Optimizer Simplification, ICLR 2026 (arXiv 2510.00761)",
        formula="[N steps of Adam, N of zeroth order] repeated, zeroth order last",
        defaults="N 20; the paper finds equal phases best and N of little importance. Queries, radius and rates are "
                 "unknown to us",
        memory="4: two pairs of moments",
        deviations=("the authors' repository holds no code, so nothing was compared",
                    "the gain against relearning does not appear in our tests: over three seeds a model of 190,000 "
                    "weights relearns as much as after Adam",
                    "the two phases keep separate moments, because an estimate has a far larger norm than a gradient",
                    "gradients and estimates are clipped alike, at norm 1 unless clip says otherwise; both steps are "
                    "adaptive, so the norm of an estimate matters little"),
    )
    space = {"lr": ("log", 1e-5, 3e-3), "period": ("choice", 5, 20, 50)}
    must_show = (
        Property("learning_rate_curve", {}, "rises over the warm-up, ends near zero when linear"),
        Property("alternates", {}, "N and N steps in turn, the last N zeroth order, for any number of steps"),
        Property("first_phase_is_adamw", {}, "a gradient step is AdamW's, bit for bit, also after an estimated one"),
        Property("unlearns", {"lr": 1e-3, "options": {"period": 10, "queries": 1}},
                 "with npo and a retain term forget answers go and retain answers stay"),
    )

    def build(self, parameters: Parameters) -> torch.optim.Optimizer:
        optimizer = TwoPhases(parameters, lr=self.spec.lr, betas=(self.spec.beta1, self.spec.beta2), eps=self.spec.eps,
                              weight_decay=self.spec.weight_decay)
        for group in optimizer.param_groups:
            group.update(estimated=False, ratio=self.spec.ratio)
        return optimizer

    def probing(self, step: int, total: int) -> Probing | None:
        if (total - 1 - step) // self.spec.period % 2:
            return None
        return Probing(queries=self.spec.queries, radius=self.spec.radius)
