"""Membership by the least likely tokens."""

from __future__ import annotations

from typing import ClassVar

from expunge import plugin
from expunge.metrics.base import MetricCard
from expunge.metrics.membership import (
    SPLITS_READ,
    MembershipAttack,
    ShareOptions,
    Tokens,
    counted_lowest,
    lowest_mean,
)
from expunge.records.observation import Row

FEWER = ("At least one token is read; MUSE and RWKU read none of a text shorter than 1/k tokens, and have no number. "
         "They round k T in floating point, which at k = 0.7 reads a token less of some lengths, as of 90.")


def min_k(row: Row, k: float = 0.4, tokens: Tokens = "text") -> float:
    """- mean of the lowest max(1, floor(k T)) log p_t, end token left out unless `tokens` says otherwise; nats."""
    return -lowest_mean(counted_lowest(row, "logp", tokens), k)


class MiaMinK(MembershipAttack):
    card = MetricCard(
        name="mia.min_k",
        kind="metric",
        summary="AUC of separating forget from never-seen rows by their least likely tokens",
        paper="Min-K%, Shi et al., arXiv 2310.16789; k as in MUSE, arXiv 2407.06460",
        formula="AUC of -mean(lowest k T of log p_t), holdout against forget",
        defaults="k = 0.4: MUSE and OpenUnlearning; the end token is left out",
        deviations=(FEWER,),
        higher_is="knows", range=(0.0, 1.0), ideal=0.5, access="logits",
        probes=(("likelihood", SPLITS_READ),),
    )
    Spec: ClassVar[type[plugin.Spec]] = ShareOptions

    def unfamiliarity(self, row: Row) -> float:
        return min_k(row, self.spec.k, self.spec.tokens)
