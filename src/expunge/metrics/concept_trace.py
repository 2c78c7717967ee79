"""What is left of the value vectors that hold a concept (ConceptVectors)."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from expunge import plugin
from expunge.metrics.base import Evidence, MetricCard, NotAvailable, RowMetric
from expunge.plugin import Property
from expunge.records.task import Split


class ConceptTraceOptions(plugin.Spec):
    of: Literal["jaccard", "cosine", "distance"] = Field("jaccard", description=(
        "jaccard: of the 200 tokens the vector points to most; cosine; distance: L2"))


class ConceptTrace(RowMetric):
    card = MetricCard(
        name="concept_trace", kind="metric", target="concept",
        summary="How much of a concept's value vectors is left: overlap of their top tokens with the original's",
        paper="Intrinsic Evaluation of Unlearning Using Parametric Knowledge Traces, 2024 (arXiv 2406.11614)",
        formula="mean over concepts of J(top200(E v), top200(E v0)), cos(v, v0) or ||v - v0||",
        defaults="Jaccard, of 200 tokens, by the original's output head",
        needs=frozenset({"original"}),
        deviations=("The authors' finer overlaps with words of the encyclopedia's article are left out.",
                    "A retrained model from another initialisation has no such vector there."),
        higher_is="knows", range=None, ideal="reference", access="weights",
        probes=(("value_vectors", ("forget",)),),
    )
    Spec: ClassVar[type[plugin.Spec]] = ConceptTraceOptions
    must_show = (
        Property("needs", {"without": ("value_vectors", "forget", None), "says": "value_vectors"}),
        Property("concept_trace_by_hand", {}, "the mean over concepts of what the rows say"),
    )

    def one(self, split: Split | None) -> Split:
        return "forget"

    def orientation(self, split: Split | None) -> Literal["knows", "forgot", "neutral"]:
        return "forgot" if self.spec.of == "distance" else "knows"

    def values(self, evidence: Evidence, split: Split) -> dict[str, float]:
        rows = evidence.rows("value_vectors", split)
        if not rows:
            raise NotAvailable("no forget row names a value vector")
        return {row["id"]: float(row[self.spec.of]) for row in rows}
