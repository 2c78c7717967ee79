"""FedAvg: the server takes the weighted mean of its clients' models."""

from __future__ import annotations

from torch import Tensor

from expunge.federated.base import DEFAULTS, PAPER, SHARED_DEVIATIONS, ServerRule
from expunge.plugin import Card, Property


def fedavg(theta: Tensor, delta: Tensor) -> Tensor:
    """The server's weights after a round: theta + Delta, where Delta = sum_c (n_c / n) (theta_c - theta)."""
    return theta + delta


class FedAvg(ServerRule):
    """Average the clients' models by their numbers of rows."""

    card = Card(
        name="fedavg", kind="federated",
        summary="federated averaging: the mean of the clients' models, weighted by rows",
        paper=f"McMahan et al. 2017 (arXiv 1602.05629) as used by {PAPER}",
        formula="theta <- theta + Delta, Delta = sum_c (n_c / n) (theta_c - theta)",
        defaults=DEFAULTS,
        model_needs=frozenset({"logp", "weights"}),
        deviations=SHARED_DEVIATIONS,
        memory="one copy of what moves per client",
    )
    space = {"rounds": ("choice", 1, 2, 4), "clients": ("choice", 2, 3, 5)}
    must_show = (
        Property("one_client_is_central", {}, "one client trains as without a server, bit for bit, in one round or in "
                                              "several with optimizers=keep"),
        Property("averages_equal_models", {}, "the mean of equal models is that model, and the order of clients "
                                              "changes no bit"),
        Property("follows_formula", {"steps": [0.3], "options": {}}, "one round equals a value computed by hand"),
        Property("divides_rows", {}, "every row is on one client, by one rule for all splits"),
        Property("leaves_out_who_fails", {}, "a silent client, NaN and wrong shapes are left out and recorded, and "
                                             "weights add up to 1 again"),
        Property("keeps_state_without_answers", {}, "where nobody answers it says so, and goes on later from the last "
                                                    "whole round"),
        Property("averages_products", {}, "the mean of adapters is the mean of their products, not of their factors"),
        Property("each_unlearns_its_share", {}, "spread forget rows are unlearned where they are"),
    )

    def update(self, theta: Tensor, delta: Tensor, state: dict[str, Tensor]) -> Tensor:
        return fedavg(theta, delta)
