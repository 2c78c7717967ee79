"""KnowEdit's locality: what a model said before an edit, it says after it."""

from __future__ import annotations

from collections.abc import Iterable

from expunge.metrics.base import Evidence, MetricCard, NotAvailable, RowMetric
from expunge.metrics.text.units import units
from expunge.plugin import Property
from expunge.records.observation import Row
from expunge.records.task import SPLITS, Split


def agreement(before: Iterable[Row], after: Iterable[Row]) -> dict[str, float]:
    """Share of the words said before that stand at the same place after, by example id; silence before is skipped."""
    now = {row["id"]: units(row["text"]) for row in after}
    found = {}
    for row in before:
        said = units(row["text"])
        if said and row["id"] in now:
            found[row["id"]] = sum(a == b for a, b in zip(said, now[row["id"]], strict=False)) / len(said)
    return found


class Locality(RowMetric):
    card = MetricCard(
        name="locality",
        kind="metric",
        summary="Share of the original's words that the model still says at the same place",
        paper="A Comprehensive Study of Knowledge Editing for Large Language Models (KnowEdit, arXiv 2401.01286)",
        formula="mean over rows of (1/T) sum_t 1[word t = word t of the original]",
        deviations=("words of what each writes by itself; the authors compare tokens, given the true beginning",
                    "the original's answer need not be right: a wrong but stable answer counts, as published"),
        higher_is="knows", range=(0.0, 1.0), ideal=1.0, access="text",
        probes=(("generation", SPLITS),), per_split=True,
    )
    must_show = (
        Property("value", {"world": "original", "split": "retain", "is_": 1.0}, "nothing changed"),
        Property("orders", {"split": "forget", "worlds": ("original", "retrained", "collapsed")}),
    )

    def values(self, evidence: Evidence, split: Split) -> dict[str, float]:
        if evidence.original is None:
            raise NotAvailable("no original model was given (--original)")
        return agreement(evidence.original.rows("generation", split, "prompt"),
                         evidence.rows("generation", split, "prompt"))

    def missing(self, split: Split) -> str:
        return f"the original says nothing to {split} rows"
