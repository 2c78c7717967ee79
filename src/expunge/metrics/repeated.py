"""How much of the true answer a generated one repeats, row by row."""

from __future__ import annotations

from typing import ClassVar

from expunge import plugin
from expunge.metrics.base import Evidence, GroupOptions, RowMetric
from expunge.plugin import Property
from expunge.records.task import Split


class RepeatedAnswer(RowMetric):
    """Base of scores that compare the answer to the plain prompt with the true one."""

    Spec: ClassVar[type[plugin.Spec]] = GroupOptions
    must_show = (
        Property("value", {"world": "perfect", "split": "forget", "is_": 1.0}, "word for word"),
        Property("value", {"world": "collapsed", "split": "forget", "is_": 0.0}, "an empty answer"),
        Property("orders", {"split": "forget", "worlds": ("original", "retrained", "collapsed")}),
        Property("needs", {"without": ("generation", "forget", None), "split": "forget", "says": "generation"}),
    )

    def repeated(self, reference: str, text: str) -> float | None:
        """In 0..1; None for a true answer that cannot be compared."""
        raise NotImplementedError

    def values(self, evidence: Evidence, split: Split) -> dict[str, float]:
        scored = {r["id"]: self.repeated(r["reference"], r["text"])
                  for r in evidence.rows("generation", split, "prompt")}
        return {key: value for key, value in scored.items() if value is not None}
