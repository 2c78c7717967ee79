"""Membership by the loss over the compressed length of the text."""

from __future__ import annotations

import zlib
from typing import ClassVar

from expunge import plugin
from expunge.metrics.base import MetricCard
from expunge.metrics.membership import SPLITS_READ, MembershipAttack, TokenOptions, Tokens
from expunge.metrics.mia_loss import loss
from expunge.records.observation import Row


def zlib_loss(row: Row, tokens: Tokens = "text") -> float:
    """L(x) over the bytes of the zlib-compressed answer text (UTF-8, default level)."""
    return loss(row, tokens) / len(zlib.compress(row["text"].encode("utf-8")))


class MiaZlib(MembershipAttack):
    card = MetricCard(
        name="mia.zlib",
        kind="metric",
        summary="AUC of separating forget from never-seen rows by loss over compressed length",
        paper="Carlini et al., arXiv 2012.07805; OpenUnlearning, arXiv 2506.12618",
        formula="AUC of L(x) / len(zlib(x)), holdout against forget",
        defaults="the end token is left out of L; OpenUnlearning counts it (tokens=openunlearning)",
        model_needs=frozenset({"sequence"}),
        higher_is="knows", range=(0.0, 1.0), ideal=0.5, access="logits",
        probes=(("likelihood", SPLITS_READ),),
    )
    Spec: ClassVar[type[plugin.Spec]] = TokenOptions

    def unfamiliarity(self, row: Row) -> float:
        return zlib_loss(row, self.spec.tokens)
