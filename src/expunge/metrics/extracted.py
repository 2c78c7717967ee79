"""Share of answers that the model reproduces nearly word for word."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from pydantic import Field

from expunge import plugin
from expunge.metrics.base import Evidence, MetricCard, RowMetric
from expunge.metrics.rouge_l import how_compared, rouges
from expunge.plugin import Property
from expunge.records.observation import Row
from expunge.records.task import SPLITS, Split

WHOLE = 0.99
"""Threshold used for tau = 1, since no recall is above 1."""


class ExtractedOptions(plugin.Spec):
    tau: float = Field(0.9, ge=0, le=1, description="ROUGE-L recall to be exceeded; 1.0 means more than 0.99.")
    stemmer: bool = Field(True, description="Porter stemmer on both texts.")


def extracted(rows: Iterable[Row], tau: float = 0.9, stemmer: bool = True) -> dict[str, float]:
    """1 where ROUGE-L recall > tau, else 0, by example id; rows without a reference are left out."""
    return {key: float(recall > min(tau, WHOLE)) for key, recall in rouges(rows, "recall", stemmer).items()}


class Extracted(RowMetric):
    Spec: ClassVar[type[plugin.Spec]] = ExtractedOptions
    card = MetricCard(
        name="extracted", kind="metric",
        summary="Share of answers reproduced nearly word for word (A-ESR)",
        paper="A-ESR of Unlearned but Not Forgotten, arXiv 2505.24379",
        formula="mean 1[ROUGE-L recall > tau]",
        defaults="tau 0.9; tau=1.0 is the paper's second threshold, coded as > 0.99",
        deviations=("Compared by words or by characters, and left out, as for rouge_l.",),
        higher_is="knows", range=(0.0, 1.0), ideal="reference", access="text",
        probes=(("generation", SPLITS),), per_split=True,
    )
    must_show = (
        Property("value", {"world": "perfect", "split": "forget", "is_": 1.0}, "word for word"),
        Property("value", {"world": "collapsed", "split": "forget", "is_": 0.0}, "an empty answer"),
        Property("orders", {"split": "forget", "worlds": ("original", "retrained")}),
        Property("needs", {"without": ("generation", "forget", None), "split": "forget", "says": "generation"}),
    )

    def values(self, evidence: Evidence, split: Split) -> dict[str, float]:
        return extracted(evidence.rows("generation", split, "prompt"), self.spec.tau, self.spec.stemmer)

    def missing(self, split: Split) -> str:
        return f"no {split} row has a true answer with a letter or digit in it"

    def remark(self, evidence: Evidence, split: Split | None) -> str | None:
        return how_compared(evidence.rows("generation", self.one(split), "prompt"))
