"""FedAdam: Adam on the server, with the mean change of the clients as its gradient."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from expunge.federated.base import DEFAULTS, PAPER, SHARED_DEVIATIONS, ServerRule
from expunge.federated.fedadagrad import PRODUCTS, RATE, AdaptiveSpec
from expunge.plugin import Card, Property

Variant = Literal["published", "original"]


def first_moment(delta: Tensor, m: Tensor | None, beta1: float, variant: Variant) -> Tensor:
    """m <- beta1 m + (1 - beta1) Delta. Before the first round it is Delta as published, and 0 in the original."""
    if m is None:
        m = delta if variant == "published" else torch.zeros_like(delta)
    return beta1 * m + (1 - beta1) * delta


def fedadam(theta: Tensor, delta: Tensor, m: Tensor | None, v: Tensor | None, *, lr: float, tau: float, beta1: float,
            beta2: float, variant: Variant = "published") -> tuple[Tensor, Tensor, Tensor]:
    """The server's weights and both moments after a round.

    v <- beta2 v + (1 - beta2) g^2 (tau^2 before the first round), theta <- theta + lr m / (sqrt(v) + tau); g is m as
    published, and Delta in the original.
    """
    m = first_moment(delta, m, beta1, variant)
    v = torch.full_like(delta, tau ** 2) if v is None else v
    v = beta2 * v + (1 - beta2) * (m if variant == "published" else delta).square()
    return theta + lr * m / (v.sqrt() + tau), m, v


class AdamSpec(AdaptiveSpec):
    """Options of servers with two moments."""

    beta1: float = Field(0.9, ge=0, lt=1, description="Decay of the first moment.")
    beta2: float = Field(0.99, ge=0, lt=1, description="Decay of the second moment.")
    variant: Variant = Field("published", description="published squares the first moment; original squares the "
                                                      "change, and its first moment starts at 0.")


SQUARES = ("the second moment is of the first moment (sic), as published; Reddi et al. square the mean change and "
           "start the first moment at 0 (variant=original)")


class FedAdam(ServerRule):
    """Adam on the mean change."""

    Spec = AdamSpec
    card = Card(
        name="fedadam", kind="federated",
        summary="adaptive server: Adam on the mean change of the clients",
        paper=f"Reddi et al. 2021, Adaptive Federated Optimization (arXiv 2003.00295) as used by {PAPER}",
        formula="m <- b1 m + (1-b1) Delta; v <- b2 v + (1-b2) m^2; theta <- theta + server_lr m / (sqrt(v) + tau)",
        defaults=f"server_lr 1e-3, tau 1e-3, beta 0.9 and 0.99; {DEFAULTS}",
        model_needs=frozenset({"logp", "weights"}),
        deviations=(SQUARES, RATE, "uncertain: whether the square of the momentum is meant or a slip",
                    PRODUCTS, *SHARED_DEVIATIONS),
        memory="one copy of what moves per client, and two moments in float64",
    )
    kept = ("m", "v")
    space = {"server_lr": ("log", 1e-4, 1e-1), "beta1": ("uniform", 0.0, 0.95)}
    must_show = (
        Property("follows_formula", {
            "steps": [0.1 * 0.3 / (0.05 ** 0.5 + 0.2), 0.1 * 0.05 / (0.0405 ** 0.5 + 0.2)], "changes": [0.3, -0.2],
            "options": {"server_lr": 0.1, "tau": 0.2, "beta1": 0.5, "beta2": 0.8}}, "two rounds equal values by hand"),
        Property("follows_formula", {
            "steps": [0.1 * 0.15 / (0.05 ** 0.5 + 0.2), 0.1 * -0.025 / (0.048 ** 0.5 + 0.2)], "changes": [0.3, -0.2],
            "options": {"server_lr": 0.1, "tau": 0.2, "beta1": 0.5, "beta2": 0.8, "variant": "original"}},
                 "so do two of the original"),
        Property("resets_moments", {}, "unlearning starts without the moments of learning, unless they are kept"),
    )

    def update(self, theta: Tensor, delta: Tensor, state: dict[str, Tensor]) -> Tensor:
        spec = self.spec
        theta, state["m"], state["v"] = fedadam(
            theta, delta, state.get("m"), state.get("v"), lr=spec.server_lr, tau=spec.tau, beta1=spec.beta1,
            beta2=spec.beta2, variant=spec.variant)
        return theta
