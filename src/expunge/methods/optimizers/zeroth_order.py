"""Zeroth order: gradients estimated from losses only, and an Adam-like step."""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field

from expunge.methods.base import Optimizer, Parameters, RateSpec
from expunge.plugin import Card, Property
from expunge.training.zeroth import Probing


def adaptive_step(parameter: torch.nn.Parameter, state: dict[str, Any], group: dict[str, Any]) -> None:
    """m <- b1 m + (1 - b1) g; v <- b2 v + (1 - b2) m^2; w <- (1 - lr decay) w - lr m / (sqrt(v_hat) + eps).

    The second moment is that of the averaged estimate, which is far less noisy than the estimate. `state` holds
    the moments as mean and mean_sq.
    """
    assert parameter.grad is not None
    first, second = group["betas"]
    if "estimates" not in state:
        state |= {"estimates": 0, "mean": torch.zeros_like(parameter), "mean_sq": torch.zeros_like(parameter)}
    state["estimates"] += 1
    mean = state["mean"].lerp_(parameter.grad, 1 - first)
    square = state["mean_sq"].mul_(second).addcmul_(mean, mean, value=1 - second)
    # v averages m^2, so the start bias of m cancels and only the average of v is corrected.
    spread = (square / (1 - second ** state["estimates"])).sqrt() + group["eps"]
    parameter.mul_(1 - group["lr"] * group["weight_decay"])
    parameter.sub_(mean / spread, alpha=group["lr"])


class AdaptiveZeroth(torch.optim.Optimizer):
    """`adaptive_step` on every parameter that has a gradient."""

    def __init__(self, params: Parameters, lr: float, betas: tuple[float, float] = (0.9, 0.999),
                 eps: float = 1e-8, weight_decay: float = 0.0) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    adaptive_step(parameter, self.state[parameter], group)


class ZerothOrder(Optimizer):
    """Forward passes only, so that memory for inference is nearly enough."""

    class Spec(RateSpec):
        queries: int = Field(4, ge=1, description="Directions per step, two forward passes each.")
        radius: float = Field(1e-3, gt=0, description="Distance of the two points from the weights, root mean "
                                                      "square per weight.")
        adaptive: bool = Field(True, description="Adam-like step on the estimate; False: plain descent without state.")
        beta1: float = Field(0.9, ge=0, lt=1, description="Decay of the averaged estimate.")
        beta2: float = Field(0.999, ge=0, lt=1, description="Decay of its square.")
        eps: float = Field(1e-8, gt=0, description="Added to the denominator.")
        clip: float | None = Field(None, gt=0, description="Maximum norm of the estimate; None disables clipping.")

    card = Card(
        name="zeroth_order", kind="optimizer",
        summary="gradients estimated from forward passes only",
        paper="Downgrade to Upgrade: Optimizer Simplification, ICLR 2026 (arXiv 2510.00761); Spall 1992; "
              "Malladi et al. 2023, MeZO (arXiv 2305.17333)",
        formula="g = (1/q) sum_i [L(w + r u_i) - L(w - r u_i)] / (2 r) u_i, |u_i| = sqrt(d)",
        defaults="radius and plain form of MeZO; 4 queries; the options of OptGrade are unknown to us",
        memory="2 when adaptive, 0 when not; during the estimate one copy of the trainable weights instead of a "
               "gradient; no activations are kept",
        deviations=("the authors' repository holds no code, so nothing was compared",
                    "the adaptive form follows its one-line description: a second moment of the averaged estimate; "
                    "only the average of v is corrected for its start bias, so that the first step has size lr",
                    "directions have the norm sqrt(d) of a Gaussian draw instead of 1, so that the estimate has the "
                    "scale of the gradient",
                    "the estimate is not clipped by default: its norm grows with the square root of d / q"),
    )
    space = {"lr": ("log", 1e-6, 1e-2), "queries": ("choice", 1, 4, 16)}
    must_show = (
        Property("learning_rate_curve", {}, "rises over the warm-up, ends near zero when linear"),
        Property("estimate_converges", {}, "its cosine with the true gradient goes to 1 as queries grow"),
        Property("needs_no_backward", {}, "no backward pass, no dropout, weights restored bit for bit between draws"),
        Property("lowers_loss", {"recipe": "margin + retain_nll(weight=0) + layers(index=0, modules='input_layernorm')",
                                 "lr": 0.2}, "on few parameters the loss falls"),
    )

    def build(self, parameters: Parameters) -> torch.optim.Optimizer:
        spec = self.spec
        if not spec.adaptive:  # without momentum, coupled decay is decoupled decay
            return torch.optim.SGD(parameters, lr=spec.lr, weight_decay=spec.weight_decay)
        return AdaptiveZeroth(parameters, lr=spec.lr, betas=(spec.beta1, spec.beta2), eps=spec.eps,
                              weight_decay=spec.weight_decay)

    def probing(self, step: int, total: int) -> Probing | None:
        return Probing(queries=self.spec.queries, radius=self.spec.radius)
