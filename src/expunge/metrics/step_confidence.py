"""Step confidence: how sure a model is of each step of an answer, also of one that it refuses to give."""

from __future__ import annotations

from collections.abc import Callable
from statistics import fmean
from typing import ClassVar, Literal

from pydantic import Field

from expunge import plugin
from expunge.metrics.base import Evidence, MetricCard, RowMetric
from expunge.metrics.layers import rows_by_id
from expunge.metrics.text.refusals import is_refusal
from expunge.plugin import Property
from expunge.records.task import SPLITS, Split

LEVELS = 5
SURE = 4
"""Verbal levels, and the lowest of them that counts as sure."""


class StepConfidenceOptions(plugin.Spec):
    read: Literal["all", "refused", "sure", "gap"] = Field("all", description=(
        "all: internal confidence of all rows; refused: of those that the model refuses to answer; sure: share of all "
        "rows that is refused although the model is sure (level 4 or 5 of 5); gap: distance of expressed and internal "
        "level, 0 to 1"))
    step: Literal["mean", "least", "most"] = Field("mean", description=(
        "mean: over the sentences of the answer; least, most: of the sentence that the model is least or most sure of"))


def level(confidence: float) -> int:
    """1 to 5, in equal steps."""
    return min(int(confidence * LEVELS), LEVELS - 1) + 1


class StepConfidence(RowMetric):
    card = MetricCard(
        name="step_confidence", kind="metric",
        summary="How sure a model is of the right answer, sentence by sentence, whatever it says",
        paper="MMBoundary (arXiv 2505.23224)",
        formula="mean over rows, sentences and three signals, each from 0 to 1; read=refused: over refused rows",
        defaults="equal weights of the signals; five levels in equal steps; a refusal expresses level 1, an answer 5",
        deviations=("MMBoundary calibrates what a model says of its certainty; here a refusal stands for a model that "
                    "says it does not know, and certainty is that of the true answer",
                    "read=refused is the audit: a model that says it does not know and is sure inside has only hidden "
                    "the answer; no value where it refuses nothing",
                    "a retrained model is sure of the common words of an answer too: only what is beyond it counts"),
        higher_is="neutral", range=(0.0, 1.0), ideal="reference", access="logits",
        probes=(("steps", SPLITS), ("generation", SPLITS)), per_split=True,
    )
    Spec: ClassVar[type[plugin.Spec]] = StepConfidenceOptions
    must_show = (
        Property("orders", {"worlds": ("original", "retrained", "collapsed"), "split": "forget"}),
        Property("confidence_by_hand", {}, "levels, refusals and gaps of made-up rows"),
        Property("needs", {"without": ("steps", "forget", None), "split": "forget", "says": "steps"}),
    )

    def values(self, evidence: Evidence, split: Split) -> dict[str, float]:
        ways: dict[str, Callable[[list[float]], float]] = {"mean": fmean, "least": min, "most": max}
        choose = ways[self.spec.step]
        inside = {key: float(choose([fmean(one) for one in row["signals"]]))
                  for key, row in rows_by_id(evidence, "steps", split).items()}
        refused = {r["id"]: is_refusal(r["text"]) for r in evidence.rows("generation", split, "prompt")}
        both = {key: value for key, value in inside.items() if key in refused}
        if self.spec.read == "all":
            return both
        if self.spec.read == "refused":
            return {key: value for key, value in both.items() if refused[key]}
        if self.spec.read == "sure":
            return {key: float(refused[key] and level(value) >= SURE) for key, value in both.items()}
        return {key: abs((1 if refused[key] else LEVELS) - level(value)) / (LEVELS - 1) for key, value in both.items()}

    def missing(self, split: Split) -> str:
        return f"the model refuses no {split} row" if self.spec.read == "refused" else f"no {split} row has an answer"
