"""Membership by the loss over the compressed length of the text."""

from __future__ import annotations

import zlib

from expunge.metrics.base import MetricCard
from expunge.metrics.membership import SPLITS_READ, MembershipAttack
from expunge.metrics.mia_loss import loss
from expunge.records.observation import Row


def zlib_loss(row: Row) -> float:
    """L(x) over the bytes of the zlib-compressed answer text (UTF-8, default level)."""
    return loss(row) / len(zlib.compress(row["text"].encode("utf-8")))


class MiaZlib(MembershipAttack):
    card = MetricCard(
        name="mia.zlib",
        kind="metric",
        summary="AUC of separating forget from never-seen rows by loss over compressed length",
        paper="Carlini et al., arXiv 2012.07805; OpenUnlearning, arXiv 2506.12618",
        formula="AUC of L(x) / len(zlib(x)), holdout against forget",
        model_needs=frozenset({"sequence"}),
        higher_is="knows", range=(0.0, 1.0), ideal=0.5, access="logits",
        probes=(("likelihood", SPLITS_READ),),
    )

    def unfamiliarity(self, row: Row) -> float:
        return zlib_loss(row)
