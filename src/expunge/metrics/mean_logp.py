"""Mean log-probability per token of right or of wrong answers: RESTOR's look at a model's beliefs."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from expunge import plugin
from expunge.metrics.base import Evidence, GroupOptions, MetricCard, RowMetric
from expunge.metrics.rows import text_values
from expunge.plugin import Property
from expunge.records.observation import Row
from expunge.records.score import Orientation
from expunge.records.task import SPLITS, Split


class MeanLogpOptions(GroupOptions):
    form: Literal["answer", "wrong"] = Field("answer", description="answer: the right one; wrong: the wrong ones")


def text_logp(row: Row) -> float | None:
    """Mean log p of the text's tokens, the end token left out."""
    values = text_values(row, "logp")
    return float(values.mean()) if len(values) else None


class MeanLogp(RowMetric):
    card = MetricCard(
        name="mean_logp", kind="metric",
        summary="Mean log-probability per token of the right answer, or of the wrong ones",
        paper="RESTOR, TMLR 2025 (arXiv 2411.00204), logits of clean, corrupted and random answers",
        formula="mean over rows of the mean over answers of (1/T) sum_t log p_t, in nats",
        defaults="the right answer; the end token is left out",
        deviations=("Of several right answers the first is read.",
                    "RESTOR's lists of corrupted answers are not published; wrong ones are of other entities."),
        higher_is="knows", range=None, ideal="reference", access="logits", alternatives=True,
        probes=(("likelihood", SPLITS),), per_split=True,
    )
    Spec: ClassVar[type[plugin.Spec]] = MeanLogpOptions
    must_show = (
        Property("value", {"world": "perfect", "split": "forget", "is_": 0.0}, "p = 1 for every token"),
        Property("value", {"world": "uniform", "split": "forget", "is_": -2.0}, "each token at exp(-2)"),
        Property("orders", {"split": "forget", "worlds": ("original", "retrained", "collapsed")}),
        Property("needs", {"without": ("likelihood", "forget", None), "split": "forget", "says": "likelihood"}),
        Property("uses_end", {"split": "forget", "matters": False}, "text only"),
    )

    def orientation(self, split: Split | None) -> Orientation:
        return "knows" if self.spec.form == "answer" else "neutral"

    def values(self, evidence: Evidence, split: Split) -> dict[str, float]:
        found: dict[str, list[float]] = {}
        for row in evidence.rows("likelihood", split, self.spec.form):
            if (value := text_logp(row)) is not None:
                found.setdefault(row["id"], []).append(value)
        return {key: float(np.mean(values)) for key, values in found.items()}

    def missing(self, split: Split) -> str:
        return f"no {split} row has such an answer with a token"
