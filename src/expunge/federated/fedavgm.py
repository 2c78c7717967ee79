"""FedAvgM: the server adds up the clients' changes with momentum."""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from expunge.federated.base import DEFAULTS, PAPER, SHARED_DEVIATIONS, ServerRule, ServerSpec
from expunge.plugin import Card, Property


def fedavgm(theta: Tensor, delta: Tensor, m: Tensor | None, momentum: float,
            damped: bool = False) -> tuple[Tensor, Tensor]:
    """The server's weights and momentum after a round: m <- momentum * m + Delta, theta <- theta + m.

    Args:
        m: None before the first round, where m = Delta.
        damped: weigh Delta by 1 - momentum after the first round, so that equal changes are not amplified.
    """
    m = delta if m is None else momentum * m + (1 - momentum if damped else 1.0) * delta
    return theta + m, m


class FedAvgM(ServerRule):
    """Move the server by an accumulated mean change."""

    class Spec(ServerSpec):
        momentum: float = Field(0.9, ge=0, lt=1, description="Share of the last step that is added; 0 is fedavg.")
        damped: bool = Field(False, description="Weigh a new change by 1 - momentum; not as published.")

    card = Card(
        name="fedavgm", kind="federated",
        summary="federated averaging with momentum on the server",
        paper=f"Hsu et al. 2019 (arXiv 1909.06335) as used by {PAPER}",
        formula="m <- momentum * m + Delta (m = Delta in round 0); theta <- theta + m",
        defaults=f"momentum 0.9; {DEFAULTS}",
        model_needs=frozenset({"logp", "weights"}),
        deviations=(
            "changes add up undamped, as published: if clients keep asking for the same change, round 2 makes 1.9 "
            "times it and later rounds up to 10 times it, so more than a few rounds overshoot (damped=true does not)",
            "uncertain: whether this is why the published chart shows fedavgm ruined after unlearning",
            *SHARED_DEVIATIONS),
        memory="one copy of what moves per client, and the momentum in float64",
    )
    kept = ("m",)
    space = {"momentum": ("uniform", 0.0, 0.95), "rounds": ("choice", 1, 2, 4)}
    must_show = (
        Property("reduces_to_fedavg", {"options": {"momentum": 0.0}}, "without momentum it is fedavg, bit for bit"),
        Property("follows_formula", {"steps": [0.3, 0.57], "options": {}}, "of equal changes the second step is 1.9 "
                                                                           "times the first"),
        Property("follows_formula", {"steps": [0.3, 0.3], "options": {"damped": True}}, "damped, it is not"),
        Property("resets_moments", {}, "unlearning starts without the moments of learning, unless they are kept"),
    )

    def update(self, theta: Tensor, delta: Tensor, state: dict[str, Tensor]) -> Tensor:
        theta, state["m"] = fedavgm(theta, delta, state.get("m"), self.spec.momentum, self.spec.damped)
        return theta
