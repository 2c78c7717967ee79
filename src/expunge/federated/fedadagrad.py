"""FedAdagrad: the server's steps shrink where changes have added up."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from expunge.federated.base import DEFAULTS, PAPER, SHARED_DEVIATIONS, ServerRule, ServerSpec
from expunge.plugin import Card, Property


def fedadagrad(theta: Tensor, delta: Tensor, v: Tensor | None, lr: float, tau: float) -> tuple[Tensor, Tensor]:
    """The server's weights and second moment after a round.

    v <- v + Delta^2 (tau^2 before the first round), theta <- theta + lr * Delta / (sqrt(v) + tau).
    """
    v = (torch.full_like(delta, tau ** 2) if v is None else v) + delta.square()
    return theta + lr * delta / (v.sqrt() + tau), v


RATE = ("the server's learning rate is called server_lr; the public code calls it epsilon, and its server_lr is never "
        "read")
PRODUCTS = ("with lora the rule acts on entries of the products B A, and the result is cut back to the rank, so that "
            "an entry may move otherwise than the formula says; the record's `cut` is the share that was lost")


class AdaptiveSpec(ServerSpec):
    """Options of servers with a second moment."""

    server_lr: float = Field(1e-3, ge=0, le=1e30, description="Learning rate of the server: about how far an entry "
                                                              "moves in a round (called epsilon in the public code).")
    tau: float = Field(1e-3, gt=0, description="Added to the root of the second moment, which starts at its square.")


class FedAdagrad(ServerRule):
    """Divide the mean change by the root of all squared changes so far."""

    Spec = AdaptiveSpec
    card = Card(
        name="fedadagrad", kind="federated",
        summary="adaptive server: changes divided by the root of all squared changes so far",
        paper=f"Reddi et al. 2021, Adaptive Federated Optimization (arXiv 2003.00295) as used by {PAPER}",
        formula="v <- v + Delta^2 (v_0 = tau^2); theta <- theta + server_lr Delta / (sqrt(v) + tau)",
        defaults=f"server_lr 1e-3, tau 1e-3; {DEFAULTS}",
        model_needs=frozenset({"logp", "weights"}),
        deviations=(
            RATE, "an entry moves by less than server_lr in the first round, however far the clients went: in few "
                  "rounds a small model learns little",
            PRODUCTS, *SHARED_DEVIATIONS),
        memory="one copy of what moves per client, and the second moment in float64",
    )
    kept = ("v",)
    space = {"server_lr": ("log", 1e-4, 1e-1), "tau": ("log", 1e-4, 1e-1)}
    must_show = (
        Property("follows_formula", {"steps": [0.1 * 0.3 / (0.13 ** 0.5 + 0.2), 0.1 * 0.3 / (0.22 ** 0.5 + 0.2)],
                                     "options": {"server_lr": 0.1, "tau": 0.2}},
                 "two rounds equal values computed by hand"),
        Property("moves_at_most", {"rates": [1e-3, 1e-2]}, "no entry moves further than server_lr in the first round"),
        Property("resets_moments", {}, "unlearning starts without the moments of learning, unless they are kept"),
    )

    def update(self, theta: Tensor, delta: Tensor, state: dict[str, Tensor]) -> Tensor:
        theta, state["v"] = fedadagrad(theta, delta, state.get("v"), self.spec.server_lr, self.spec.tau)
        return theta
