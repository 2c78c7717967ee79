"""Stochastic gradient descent."""

from __future__ import annotations

import torch
from pydantic import Field

from expunge.methods.base import Optimizer, Parameters, RateSpec
from expunge.plugin import Card, Property


class SGD(Optimizer):
    """Steps along the gradient itself, so that its length and its zeros are those of the update."""

    class Spec(RateSpec):
        lr: float = Field(0.1, ge=0, le=1e30, description="Peak learning rate.")
        momentum: float = Field(0.0, ge=0, lt=1, description="Share of the last step that is taken again.")
        weight_decay: float = Field(0.0, ge=0, le=1e3, description="L2 penalty, added to the gradient.")
        clip: float | None = Field(None, gt=0, description="Maximum gradient norm; None disables clipping.")

    card = Card(
        name="sgd", kind="optimizer",
        summary="stochastic gradient descent, with momentum if asked for",
        paper="Robbins and Monro 1951; the optimizer of MUDMAN (arXiv 2506.12484) and of unlearning on classifiers",
        formula="m <- momentum m + g + decay w; w <- w - lr m",
        defaults="no momentum, no decay, no clipping; lr 0.1 suits gradients of norm 1, as sign_agree gives",
        memory="0, or 1 with momentum",
        deviations=("the decay is part of the gradient, as in torch.optim.SGD; that of adamw is not",),
    )
    space = {"lr": ("log", 1e-3, 1.0), "momentum": ("choice", 0.0, 0.9)}
    must_show = (
        Property("learning_rate_curve", {}, "rises over the warm-up, ends near zero when linear"),
        Property("steps_along_gradient", {}, "the change is -lr g, and with momentum the published sum"),
        Property("unlearns", {"lr": 0.1}, "with npo and a retain term forget answers go and retain answers stay"),
    )

    def build(self, parameters: Parameters) -> torch.optim.Optimizer:
        return torch.optim.SGD(parameters, lr=self.spec.lr, momentum=self.spec.momentum,
                               weight_decay=self.spec.weight_decay)
