"""AdamW with warm-up and a linear, cosine or constant curve."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field

from expunge import plugin
from expunge.methods.base import Optimizer
from expunge.plugin import Card, Property


class AdamW(Optimizer):
    """The optimizer of nearly every unlearning paper."""

    class Spec(plugin.Spec):
        lr: float = Field(1e-5, ge=0, description="Peak learning rate.")
        weight_decay: float = Field(0.01, ge=0, description="Decoupled decay.")
        beta1: float = Field(0.9, ge=0, lt=1, description="Decay of the first moment.")
        beta2: float = Field(0.999, ge=0, lt=1, description="Decay of the second moment.")
        eps: float = Field(1e-8, gt=0, description="Added to the denominator.")
        warmup: float = Field(1.0, ge=0, description="Linear warm-up in epochs, at most half of all steps.")
        schedule: Literal["linear", "cosine", "constant"] = Field("linear", description="After the warm-up.")
        clip: float | None = Field(1.0, gt=0, description="Largest gradient norm; None never clips.")

    card = Card(
        name="adamw", kind="optimizer",
        summary="AdamW with warm-up (the default)",
        paper="Loshchilov & Hutter 2019 (arXiv 1711.05101)",
        formula="w <- w - lr * (m / (sqrt(v) + eps) + weight_decay * w)",
        defaults="TOFU: lr 1e-5, weight decay 0.01, linear warm-up over the first epoch, then linear decay; "
                 "gradient norm clipped at 1 as the Hugging Face Trainer does",
        deviations=("the warm-up takes at most half of all steps, so that short runs still train",),
    )
    space = {"lr": ("log", 1e-5, 3e-3)}
    must_show = (Property("learning_rate_curve", {}, "rises over the warm-up, ends near zero when linear"),)

    def build(self, parameters: Sequence[torch.nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.AdamW(parameters, lr=self.spec.lr, betas=(self.spec.beta1, self.spec.beta2),
                                 eps=self.spec.eps, weight_decay=self.spec.weight_decay)

    def learning_rate(self, step: int, total: int, steps_per_epoch: int) -> float:
        warmup = min(round(self.spec.warmup * steps_per_epoch), total // 2)
        if step < warmup:
            return float(self.spec.lr * (step + 1) / warmup)
        done = (step - warmup) / max(total - warmup, 1)
        curve = {"linear": 1 - done, "cosine": (1 + math.cos(math.pi * done)) / 2, "constant": 1.0}
        return float(self.spec.lr * curve[self.spec.schedule])
