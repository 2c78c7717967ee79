"""Membership by the loss."""

from __future__ import annotations

from expunge.metrics.base import MetricCard
from expunge.metrics.membership import SPLITS_READ, MembershipAttack
from expunge.metrics.rows import text_values
from expunge.records.observation import Row


def loss(row: Row) -> float:
    """Mean -log p of the answer's tokens, end token left out; nats per token."""
    return -float(text_values(row, "logp").mean())


class MiaLoss(MembershipAttack):
    card = MetricCard(
        name="mia.loss",
        kind="metric",
        summary="AUC of separating forget from never-seen rows by their loss",
        paper="Yeom et al., arXiv 1709.01604; OpenUnlearning, arXiv 2506.12618",
        formula="AUC of L(x) = -(1/T) sum_t log p_t, holdout against forget",
        higher_is="knows", range=(0.0, 1.0), ideal=0.5, access="logits",
        probes=(("likelihood", SPLITS_READ),),
    )

    def unfamiliarity(self, row: Row) -> float:
        return loss(row)
