"""FedYogi: FedAdam whose second moment moves by steps of bounded size."""

from __future__ import annotations

import torch
from torch import Tensor

from expunge.federated.base import DEFAULTS, PAPER, SHARED_DEVIATIONS, ServerRule
from expunge.federated.fedadagrad import PRODUCTS, RATE
from expunge.federated.fedadam import SQUARES, AdamSpec, Variant, first_moment
from expunge.plugin import Card, Property


def fedyogi(theta: Tensor, delta: Tensor, m: Tensor | None, v: Tensor | None, *, lr: float, tau: float, beta1: float,
            beta2: float, variant: Variant = "published") -> tuple[Tensor, Tensor, Tensor]:
    """The server's weights and both moments after a round.

    v <- v - (1 - beta2) g^2 sign(v - g^2) (tau^2 before the first round), theta <- theta + lr m / (sqrt(v) + tau); g is
    m as published, and Delta in the original.
    """
    m = first_moment(delta, m, beta1, variant)
    square = (m if variant == "published" else delta).square()
    v = torch.full_like(delta, tau ** 2) if v is None else v
    v = v - (1 - beta2) * square * (v - square).sign()
    return theta + lr * m / (v.sqrt() + tau), m, v


class FedYogi(ServerRule):
    """Yogi on the mean change."""

    Spec = AdamSpec
    card = Card(
        name="fedyogi", kind="federated",
        summary="adaptive server: Yogi on the mean change of the clients",
        paper=f"Reddi et al. 2021, Adaptive Federated Optimization (arXiv 2003.00295) as used by {PAPER}",
        formula="m as fedadam; v <- v - (1-b2) m^2 sign(v - m^2); theta <- theta + server_lr m / (sqrt(v) + tau)",
        defaults=f"server_lr 1e-3, tau 1e-3, beta 0.9 and 0.99; {DEFAULTS}",
        model_needs=frozenset({"logp", "weights"}),
        deviations=(SQUARES, RATE, PRODUCTS, *SHARED_DEVIATIONS),
        memory="one copy of what moves per client, and two moments in float64",
    )
    kept = ("m", "v")
    space = {"server_lr": ("log", 1e-4, 1e-1), "beta1": ("uniform", 0.0, 0.95)}
    must_show = (
        Property("follows_formula", {
            "steps": [0.1 * 0.3 / (0.058 ** 0.5 + 0.2), 0.1 * 0.05 / (0.0575 ** 0.5 + 0.2)], "changes": [0.3, -0.2],
            "options": {"server_lr": 0.1, "tau": 0.2, "beta1": 0.5, "beta2": 0.8}}, "two rounds equal values by hand"),
        Property("follows_formula", {
            "steps": [0.1 * 0.15 / (0.058 ** 0.5 + 0.2), 0.1 * -0.025 / (0.05 ** 0.5 + 0.2)], "changes": [0.3, -0.2],
            "options": {"server_lr": 0.1, "tau": 0.2, "beta1": 0.5, "beta2": 0.8, "variant": "original"}},
                 "so do two of the original"),
        Property("resets_moments", {}, "unlearning starts without the moments of learning, unless they are kept"),
    )

    def update(self, theta: Tensor, delta: Tensor, state: dict[str, Tensor]) -> Tensor:
        moments, spec = (state.get("m"), state.get("v")), self.spec
        theta, state["m"], state["v"] = fedyogi(theta, delta, *moments, lr=spec.server_lr, tau=spec.tau,
                                                beta1=spec.beta1, beta2=spec.beta2, variant=spec.variant)
        return theta
