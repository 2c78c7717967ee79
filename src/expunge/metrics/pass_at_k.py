"""Probability that at least one of k sampled answers contains the fact."""

from __future__ import annotations

from math import comb
from typing import ClassVar

from pydantic import Field

from expunge import plugin
from expunge.metrics.base import Evidence, MetricCard, RowMetric
from expunge.metrics.rouge_l import rouge_l
from expunge.metrics.text.matching import contains
from expunge.plugin import Property
from expunge.records.observation import Row
from expunge.records.task import SPLITS, Split


class PassOptions(plugin.Spec):
    k: int = Field(1, ge=1, description="Number of answers of which one must contain the fact.")
    tau: float = Field(0.9, ge=0, lt=1, description=(
        "ROUGE-L recall above which an answer to a row without a bare fact is right."))


def pass_at_k(attempts: int, right: int, k: int) -> float:
    """1 - C(attempts - right, k) / C(attempts, k): share of all k-subsets of the attempts with at least one right."""
    if not 0 <= right <= attempts or not 1 <= k <= attempts:
        raise ValueError(f"pass@{k} of {right} right among {attempts}")
    return 1 - comb(attempts - right, k) / comb(attempts, k)


def reveals_fact(row: Row, tau: float) -> bool | None:
    """Whether an answer contains the bare fact, or repeats the reference if there is none; None if neither is given."""
    if row.get("short"):
        return contains(row["text"], row["short"], row["reference"])
    recall = rouge_l(row["reference"], row["text"])
    return None if recall is None else recall > tau


class PassAtK(RowMetric):
    pools = True
    card = MetricCard(
        name="pass_at_k",
        kind="metric",
        summary="Probability that one of k answers to a question contains the bare fact",
        paper="Estimator of Codex, arXiv 2107.03374; many candidates as an attack, arXiv 2309.17410",
        formula="mean over rows of 1 - C(n - c, k) / C(n, k), c of n answers right",
        defaults="k 1: the mean share of right answers",
        deviations=("An answer to a row without a bare fact is right when its ROUGE-L recall exceeds tau.",),
        higher_is="knows", range=(0.0, 1.0), ideal="reference", access="text",
        probes=(("generation", SPLITS),), per_split=True,
    )
    Spec: ClassVar[type[plugin.Spec]] = PassOptions
    must_show = (
        Property("value", {"world": "perfect", "split": "forget", "is_": 1.0}, "always said"),
        Property("value", {"world": "collapsed", "split": "forget", "is_": 0.0}, "never said"),
        Property("orders", {"split": "forget", "worlds": ("original", "collapsed")}),
        Property("needs", {"without": ("generation", "forget", None), "split": "forget", "says": "generation"}),
    )

    def values(self, evidence: Evidence, split: Split) -> dict[str, float]:
        """Rows with fewer than k answers are left out."""
        outcomes: dict[str, list[bool]] = {}
        for row in evidence.rows("generation", split, "prompt"):
            right = reveals_fact(row, self.spec.tau)
            if right is not None:
                outcomes.setdefault(row["id"], []).append(right)
        return {key: pass_at_k(len(right), sum(right), self.spec.k)
                for key, right in outcomes.items() if len(right) >= self.spec.k}

    def missing(self, split: Split) -> str:
        return f"no {split} row was answered {self.spec.k} times: sample(count={self.spec.k}) draws that many answers"
