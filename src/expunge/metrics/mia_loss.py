"""Membership by the loss."""

from __future__ import annotations

from typing import ClassVar

from expunge import plugin
from expunge.metrics.base import MetricCard
from expunge.metrics.membership import SPLITS_READ, MembershipAttack, TokenOptions, Tokens, counted
from expunge.records.observation import Row


def loss(row: Row, tokens: Tokens = "text") -> float:
    """Mean -log p of the answer's tokens, end token left out unless `tokens` says otherwise; nats per token."""
    return -float(counted(row, "logp", tokens).mean())


class MiaLoss(MembershipAttack):
    card = MetricCard(
        name="mia.loss",
        kind="metric",
        summary="AUC of separating forget from never-seen rows by their loss",
        paper="Yeom et al., arXiv 1709.01604; OpenUnlearning, arXiv 2506.12618",
        formula="AUC of L(x) = -(1/T) sum_t log p_t, holdout against forget",
        defaults="the end token is left out; OpenUnlearning counts it (tokens=openunlearning)",
        higher_is="knows", range=(0.0, 1.0), ideal=0.5, access="logits",
        probes=(("likelihood", SPLITS_READ),),
    )
    Spec: ClassVar[type[plugin.Spec]] = TokenOptions

    def unfamiliarity(self, row: Row) -> float:
        return loss(row, self.spec.tokens)
