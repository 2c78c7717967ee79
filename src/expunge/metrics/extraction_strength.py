"""How short a beginning of an answer is enough for the model to complete the rest."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from expunge.metrics.base import Evidence, MetricCard, RowMetric
from expunge.metrics.rows import text_values
from expunge.plugin import Property
from expunge.records.observation import Row
from expunge.records.task import SPLITS, Split


def extraction_strengths(rows: Iterable[Row]) -> dict[str, float]:
    """ES = 1 - k/T, k = tokens that must be given before all others are right; empty answers are skipped."""
    strengths = {}
    for row in rows:
        hit = text_values(row, "hit")
        if len(hit):
            misses = np.flatnonzero(hit == 0)
            k = int(misses[-1]) + 1 if len(misses) else 0
            strengths[row["id"]] = 1 - k / len(hit)
    return strengths


class ExtractionStrength(RowMetric):
    card = MetricCard(
        name="extraction_strength",
        kind="metric",
        summary="Share of the answer's end that the model completes without a mistake",
        paper="OpenUnlearning, arXiv 2506.12618, appendix; Carlini et al., arXiv 2012.07805",
        formula="mean over rows of 1 - (1/T) min{k : for all t >= k, argmax_v p(v | x, y_<t) = y_t}",
        deviations=(
            "0 when the last token is wrong; the official loop returns 1/T there.",
            "An empty answer is skipped, as for exact_memorization; the official code counts it as 0.",
        ),
        model_needs=frozenset({"sequence"}),
        higher_is="knows", range=(0.0, 1.0), ideal="reference", access="logits",
        probes=(("likelihood", SPLITS),), per_split=True,
    )
    must_show = (
        Property("value", {"world": "perfect", "split": "forget", "is_": 1.0}, "memorised"),
        Property("value", {"world": "collapsed", "split": "forget", "is_": 0.0}, "last token wrong"),
        Property("orders", {"split": "forget", "worlds": ("original", "retrained")}),
        Property("at_most", {"other": "exact_memorization", "split": "forget"}, "a run of hits is hits"),
        Property("uses_end", {"split": "forget", "matters": False}, "token-level: text only"),
    )

    def values(self, evidence: Evidence, split: Split) -> dict[str, float]:
        return extraction_strengths(evidence.rows("likelihood", split, "answer"))

    def missing(self, split: Split) -> str:
        return f"every {split} answer is empty"
