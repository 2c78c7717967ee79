"""FedProx: FedAvg whose clients are held near the server's weights while they train."""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from expunge.federated.base import DEFAULTS, PAPER, SHARED_DEVIATIONS, ServerRule, ServerSpec
from expunge.federated.fedavg import fedavg
from expunge.plugin import Card, Property


class FedProx(ServerRule):
    """Average models of clients whose loss has a proximal term."""

    class Spec(ServerSpec):
        mu: float = Field(0.01, ge=0, description="Strength of the proximal term; 0 is fedavg.")

    card = Card(
        name="fedprox", kind="federated",
        summary="federated averaging of clients that are held near the server's weights",
        paper=f"Li et al. 2020 (arXiv 1812.06127) as used by {PAPER}",
        formula="client loss + (mu/2) ||w - theta||^2 with theta frozen; theta <- theta + Delta",
        defaults=f"mu 0.01; {DEFAULTS}",
        model_needs=frozenset({"logp", "weights"}),
        deviations=(
            "the term is against a frozen copy of the server's weights; in the public unlearning code both are one "
            "object, so the term is always 0",
            "in local training only; the public code puts the (zero) term into the unlearner too",
            "of an adapter, the term is on its two factors, as in the public code", *SHARED_DEVIATIONS),
        memory="one copy of what moves per client, and one that clients are held to",
    )
    space = {"mu": ("log", 1e-3, 1.0), "rounds": ("choice", 1, 2, 4)}
    must_show = (
        Property("reduces_to_fedavg", {"options": {"mu": 0.0}}, "without the term it is fedavg, bit for bit"),
        Property("stays_nearer", {"mu": 5.0}, "the stronger the term, the nearer clients end to the server's weights"),
        Property("penalises_distance", {}, "the term is mu/2 times the squared distance to a frozen copy"),
        Property("follows_formula", {"steps": [0.3], "options": {}}, "one round equals a value computed by hand"),
    )

    @property
    def mu(self) -> float:  # type: ignore[override]
        return float(self.spec.mu)

    def update(self, theta: Tensor, delta: Tensor, state: dict[str, Tensor]) -> Tensor:
        return fedavg(theta, delta)
