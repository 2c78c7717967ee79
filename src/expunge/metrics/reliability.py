"""KnowEdit's edit success: how much of the new answer a model says in place of the true one."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from expunge.metrics.base import Evidence, MetricCard, RowMetric
from expunge.metrics.rows import text_values
from expunge.plugin import Property
from expunge.records.observation import Row
from expunge.records.task import SPLITS, Split


def new_answers(rows: Iterable[Row]) -> dict[str, float]:
    """(1/T) sum_t 1[arg max = token t of the first wrong answer], by example id; an empty one is skipped."""
    hits = {row["id"]: text_values(row, "hit") for row in rows if row["index"] == 0}
    return {key: float(np.mean(hit)) for key, hit in hits.items() if len(hit)}


class Reliability(RowMetric):
    card = MetricCard(
        name="reliability",
        kind="metric",
        summary="Share of the new answer's tokens that are the model's first choice (an edit's success)",
        paper="A Comprehensive Study of Knowledge Editing for Large Language Models (KnowEdit, arXiv 2401.01286)",
        formula="mean over rows of (1/T) sum_t 1[argmax_v p(v | x, y'_<t) = y'_t], y' the first wrong answer",
        deviations=("the new answer is the first wrong answer of a row",
                    "generalisation is this score under the attack paraphrase, which asks a row's other wordings; "
                    "portability is exact_memorization on rows that follow from the edited ones",
                    "given the beginning of the new answer, as published, which overstates success"),
        alternatives=True, higher_is="forgot", range=(0.0, 1.0), ideal=1.0, access="logits",
        probes=(("likelihood", SPLITS),), per_split=True,
    )
    must_show = (
        Property("value", {"world": "collapsed", "split": "forget", "is_": 0.0}, "no token of it is said"),
        Property("needs", {"without": ("likelihood", "forget", "wrong"), "split": "forget", "says": "wrong"}),
        Property("uses_end", {"split": "forget", "matters": False}, "token-level: text only"),
    )

    def values(self, evidence: Evidence, split: Split) -> dict[str, float]:
        return new_answers(evidence.rows("likelihood", split, "wrong"))

    def missing(self, split: Split) -> str:
        return f"no {split} row has a wrong answer"
