"""AdamW with warm-up and a linear, cosine or constant schedule."""

from __future__ import annotations

import torch
from pydantic import Field

from expunge.methods.base import Optimizer, Parameters, RateSpec
from expunge.models.fast.optimizer import may_fuse
from expunge.plugin import Card, Property


class AdamW(Optimizer):
    """AdamW, the optimizer of most unlearning papers."""

    class Spec(RateSpec):
        beta1: float = Field(0.9, ge=0, lt=1, description="Decay of the first moment.")
        beta2: float = Field(0.999, ge=0, lt=1, description="Decay of the second moment.")
        eps: float = Field(1e-8, gt=0, description="Added to the denominator.")

    card = Card(
        name="adamw", kind="optimizer",
        summary="AdamW with warm-up (the default)",
        paper="Loshchilov & Hutter 2019 (arXiv 1711.05101)",
        formula="w <- w - lr * (m / (sqrt(v) + eps) + weight_decay * w)",
        defaults="TOFU: lr 1e-5, weight decay 0.01, linear warm-up over the first epoch, then linear decay; "
                 "gradient norm clipped at 1 and norms and biases without weight decay, as in the Hugging Face Trainer",
        deviations=("the warm-up takes at most half of all steps, so that short runs still train",),
    )
    space = {"lr": ("log", 1e-5, 3e-3)}
    must_show = (Property("learning_rate_curve", {}, "rises over the warm-up, ends near zero when linear"),)

    def build(self, parameters: Parameters) -> torch.optim.Optimizer:
        return torch.optim.AdamW(parameters, lr=self.spec.lr, betas=(self.spec.beta1, self.spec.beta2),
                                 eps=self.spec.eps, weight_decay=self.spec.weight_decay, fused=may_fuse(parameters))
