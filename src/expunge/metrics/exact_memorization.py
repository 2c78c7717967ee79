"""Share of answer tokens that are the model's first choice."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from expunge.metrics.base import Evidence, MetricCard, RowMetric
from expunge.metrics.rows import text_values
from expunge.plugin import Property
from expunge.records.observation import Row
from expunge.records.task import SPLITS, Split


def exact_memorizations(rows: Iterable[Row]) -> dict[str, float]:
    """EM = (1/T) sum_t 1[arg max = y_t], end token left out; an empty answer is skipped."""
    hits = {row["id"]: text_values(row, "hit") for row in rows}
    return {key: float(np.mean(hit)) for key, hit in hits.items() if len(hit)}


class ExactMemorization(RowMetric):
    card = MetricCard(
        name="exact_memorization",
        kind="metric",
        summary="Share of answer tokens that are the model's first choice, given the true beginning",
        paper="OpenUnlearning, arXiv 2506.12618, appendix; Tirumala et al., arXiv 2205.10770",
        formula="mean over rows of (1/T) sum_t 1[argmax_v p(v | x, y_<t) = y_t]",
        higher_is="knows", range=(0.0, 1.0), ideal="reference", access="logits",
        probes=(("likelihood", SPLITS),), per_split=True,
    )
    must_show = (
        Property("value", {"world": "perfect", "split": "forget", "is_": 1.0}, "memorised"),
        Property("value", {"world": "collapsed", "split": "forget", "is_": 0.0}, "no token right"),
        Property("orders", {"split": "forget", "worlds": ("original", "retrained", "collapsed")}),
        Property("uses_end", {"split": "forget", "matters": False}, "token-level: text only"),
    )

    def values(self, evidence: Evidence, split: Split) -> dict[str, float]:
        return exact_memorizations(evidence.rows("likelihood", split, "answer"))

    def missing(self, split: Split) -> str:
        return f"every {split} answer is empty"
