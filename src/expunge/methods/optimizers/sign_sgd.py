"""Sign descent: every weight moves by the learning rate, for any size of its gradient."""

from __future__ import annotations

from typing import Any

import torch

from expunge.methods.base import Optimizer, Parameters
from expunge.plugin import Card, Property


class SignDescent(torch.optim.Optimizer):
    """w <- (1 - lr decay) w - lr sign(g). Keeps no state."""

    def __init__(self, params: Parameters, lr: float, weight_decay: float = 0.0) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.mul_(1 - group["lr"] * group["weight_decay"])
                    parameter.sub_(parameter.grad.sign(), alpha=group["lr"])


class SignSGD(Optimizer):
    """Sign descent: one bit of the gradient per weight and step."""

    card = Card(
        name="sign_sgd", kind="optimizer",
        summary="sign descent: every weight moves by exactly the learning rate",
        paper="Downgrade to Upgrade: Optimizer Simplification, ICLR 2026 (arXiv 2510.00761); "
              "Bernstein et al. 2018, signSGD (arXiv 1802.04434)",
        formula="w <- w - lr * (sign(g) + weight_decay * w)",
        defaults="rate and decay of adamw; the paper's learning rates are unknown to us",
        memory="0",
        deviations=("the authors' repository holds no code, so nothing was compared",
                    "weights with a gradient of exactly 0 stay",),
    )
    space = {"lr": ("log", 1e-6, 1e-3)}
    must_show = (
        Property("learning_rate_curve", {}, "rises over the warm-up, ends near zero when linear"),
        Property("moves_by_rate", {}, "without decay every trainable weight changes by exactly lr"),
        Property("unlearns", {"lr": 3e-4}, "with npo and a retain term forget answers go and retain answers stay"),
    )

    def build(self, parameters: Parameters) -> torch.optim.Optimizer:
        return SignDescent(parameters, lr=self.spec.lr, weight_decay=self.spec.weight_decay)
