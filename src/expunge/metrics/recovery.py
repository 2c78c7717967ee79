"""Recovery: how much of the way from the corrupted to the clean model a model has come back."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from expunge import plugin
from expunge.metrics.accepted import Accepted
from expunge.metrics.base import Evidence, GroupOptions, Groups, Metric, MetricCard, NotAvailable, RowMetric, Strata
from expunge.metrics.probability import Probability
from expunge.plugin import Property
from expunge.records.task import SPLITS, Split

SMALLEST = 1e-3
"""Clean minus corrupted below which a share of it says nothing."""


class RecoveryOptions(GroupOptions):
    of: Literal["accepted", "probability"] = Field("accepted", description="the score of a row that should come back")


class Recovery(Metric):
    card = MetricCard(
        name="recovery", kind="metric",
        summary="Share of the knowledge lost to corrupted documents that unlearning them brings back",
        paper="RESTOR, TMLR 2025 (arXiv 2411.00204)",
        formula="(S - S_corrupted) / (S_clean - S_corrupted), S the mean score of the facts",
        defaults="accepted answers",
        needs=frozenset({"original", "retrained"}),
        deviations=("RESTOR prints the three accuracies; the share is ours.",
                    "The original is the corrupted model, the retrained one never saw the documents."),
        higher_is="neutral", range=None, ideal=1.0, access="text",
        probes=(("generation", SPLITS), ("likelihood", SPLITS)), per_split=True,
    )
    Spec: ClassVar[type[plugin.Spec]] = RecoveryOptions
    must_show = (
        Property("value", {"world": "original", "split": "forget", "is_": 0.0}, "nothing has come back"),
        Property("value", {"world": "retrained", "split": "forget", "is_": 1.0}, "as if never corrupted"),
        Property("needs", {"without": "retrained", "split": "forget", "says": "no retrained model"}),
    )

    def sample(self, evidence: Evidence, split: Split | None = None) -> Strata:
        return self.grouped(evidence, split)[0]

    def grouped(self, evidence: Evidence, split: Split | None = None) -> tuple[Strata, Groups]:
        if evidence.original is None:
            raise NotAvailable("no original model was given (--original)")
        score: RowMetric = (Accepted if self.spec.of == "accepted" else Probability)(
            **({"group": self.spec.group} if self.spec.of == "accepted" else {}))
        models = {"subject": evidence.subject, "reference_corrupted": evidence.original,
                  "reference_clean": evidence.need_retrained()}
        strata: dict[str, NDArray[np.float64]] = {}
        groups: dict[str, list[str]] = {}
        for name, model in models.items():
            values, entities = score.grouped(evidence.of(model), split)
            (strata[name],), (groups[name],) = values.values(), map(list, entities.values())
        if abs(strata["reference_clean"].mean() - strata["reference_corrupted"].mean()) < SMALLEST:
            raise NotAvailable("the clean and the corrupted model know these rows alike, so nothing can come back")
        return strata, groups

    def statistic(self, strata: Strata) -> float:
        clean, corrupted = (float(strata[f"reference_{name}"].mean()) for name in ("clean", "corrupted"))
        lost = clean - corrupted
        return (float(strata["subject"].mean()) - corrupted) / lost if abs(lost) >= SMALLEST else float("nan")
