"""Share of answers that are refusals."""

from __future__ import annotations

from expunge.metrics.base import Evidence, MetricCard, RowMetric
from expunge.metrics.text.refusals import is_refusal
from expunge.plugin import Property
from expunge.records.task import SPLITS, Split


class Refusal(RowMetric):
    card = MetricCard(
        name="refusal",
        kind="metric",
        summary="Share of answers that decline to answer",
        paper="Refusal rate of the unlearning benchmarks, such as SafeEraser, arXiv 2502.12520",
        formula="mean 1[the first sentence says that the speaker lacks the answer]",
        deviations=("Told by rules on the first sentence (English), not by a judge; an empty answer is silence, "
                    "not a refusal.",),
        higher_is="neutral", range=(0.0, 1.0), ideal="reference", access="text",
        probes=(("generation", SPLITS),), per_split=True,
    )
    must_show = (
        Property("value", {"world": "perfect", "split": "forget", "is_": 0.0}, "it answers"),
        Property("value", {"world": "collapsed", "split": "forget", "is_": 0.0}, "silence is no refusal"),
        Property("said", {"split": "forget", "text": "I'm sorry, but I don't know that.", "is_": 1.0}),
        Property("said", {"split": "forget", "text": "He did not know his father.", "is_": 0.0}, "an answer"),
        Property("needs", {"without": ("generation", "forget", None), "split": "forget", "says": "generation"}),
    )

    def values(self, evidence: Evidence, split: Split) -> dict[str, float]:
        return {r["id"]: float(is_refusal(r["text"])) for r in evidence.rows("generation", split, "prompt")}
