"""Adam with a compressed update: its sign, or a few bits of it."""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from expunge.methods.base import Optimizer, Parameters, RateSpec
from expunge.plugin import Card, Property


def quantised(values: Tensor, bits: int) -> Tensor:
    """Nearest of 2^bits evenly spaced levels from -max|values| to max|values|; 0 stays 0. One bit is the sign."""
    if bits == 1:
        return values.sign()
    half = 2**bits - 1
    scale = values.abs().max().clamp_min(torch.finfo(values.dtype).tiny)
    level = 2 * ((values / scale * half - 1) / 2).round() + 1
    return torch.where(values == 0, 0.0, level.clamp(-half, half) * scale / half)


class CompressedAdam(torch.optim.Optimizer):
    """w <- (1 - lr decay) w - lr Q(m_hat / (sqrt(v_hat) + eps)). One bit needs no second moment."""

    def __init__(self, params: Parameters, lr: float, betas: tuple[float, float] = (0.9, 0.999),
                 eps: float = 1e-8, weight_decay: float = 0.0, bits: int = 1) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "bits": bits})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            first, second = group["betas"]
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["count"], state["exp_avg"] = 0, torch.zeros_like(parameter)
                    if group["bits"] > 1:
                        state["exp_avg_sq"] = torch.zeros_like(parameter)
                state["count"] += 1
                direction = state["exp_avg"].lerp_(parameter.grad, 1 - first)
                if group["bits"] > 1:
                    square = state["exp_avg_sq"].mul_(second).addcmul_(parameter.grad, parameter.grad, value=1 - second)
                    spread = (square / (1 - second ** state["count"])).sqrt() + group["eps"]
                    direction = direction / (1 - first ** state["count"]) / spread
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.sub_(quantised(direction, group["bits"]), alpha=group["lr"])


class SignAdam(Optimizer):
    """Adam with a quantised update; by the paper, coarser steps end in flatter minima."""

    class Spec(RateSpec):
        beta1: float = Field(0.9, ge=0, lt=1, description="Decay of the first moment.")
        beta2: float = Field(0.999, ge=0, lt=1, description="Decay of the second moment; unused with one bit.")
        eps: float = Field(1e-8, gt=0, description="Added to the denominator; unused with one bit.")
        bits: int = Field(1, ge=1, le=16, description="Bits of the quantised update; 1 is its sign.")

    card = Card(
        name="sign_adam", kind="optimizer",
        summary="Adam with only the sign, or a few bits, of its update",
        paper="Downgrade to Upgrade: Optimizer Simplification, ICLR 2026 (arXiv 2510.00761)",
        formula="w <- w - lr * (Q_N(m / (sqrt(v) + eps)) + weight_decay * w), Q_1 = sign",
        defaults="one bit; moments of adamw; the paper's learning rates are unknown to us",
        memory="1 with one bit, else 2",
        deviations=("the authors' repository holds no code, so nothing was compared",
                    "levels are symmetric without a level at 0, so that one bit is the sign; their scale is the "
                    "largest entry of a tensor, except with one bit",
                    "weights with an update of exactly 0 stay"),
    )
    space = {"lr": ("log", 1e-6, 1e-3), "bits": ("choice", 1, 2, 4)}
    must_show = (
        Property("learning_rate_curve", {}, "rises over the warm-up, ends near zero when linear"),
        Property("moves_by_rate", {}, "without decay every trainable weight changes by exactly lr"),
        Property("many_bits_are_adam", {"bits": 16}, "with many bits it is Adam"),
        Property("levels_are_even", {}, "N bits are 2^N symmetric levels"),
        Property("unlearns", {"lr": 3e-4}, "with npo and a retain term forget answers go and retain answers stay"),
    )

    def build(self, parameters: Parameters) -> torch.optim.Optimizer:
        spec = self.spec
        return CompressedAdam(parameters, lr=spec.lr, betas=(spec.beta1, spec.beta2), eps=spec.eps,
                              weight_decay=spec.weight_decay, bits=spec.bits)
