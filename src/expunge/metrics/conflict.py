"""Conflict: whether a probe of hidden states still finds that wrong statements contradict what the model knows."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from expunge import plugin
from expunge.metrics.base import Evidence, Groups, Metric, MetricCard, NotAvailable, Strata
from expunge.metrics.layers import rows_by_id
from expunge.metrics.statements import StatementTable, probed
from expunge.metrics.statistics import auc
from expunge.plugin import Property
from expunge.records.task import Split


class ConflictOptions(plugin.Spec):
    probe: Literal["own", "original"] = Field("own", description=(
        "own: fitted on this model's states of retain statements: is the knowledge still readable; original: on the "
        "original's: have the states moved"))


class Conflict(Metric):
    card = MetricCard(
        name="conflict", kind="metric",
        summary="How well a conflict probe tells wrong from true statements of forget facts (AUC)",
        paper="CLEAR: Probing Latent Knowledge Conflict for Faithful RAG (arXiv 2510.12460)",
        formula="AUC of the probe's log-odds, true against wrong statements of forget rows",
        defaults="a logistic regression on retain statements, at the layer that is best for entities held out",
        needs=frozenset({"retain"}),
        deviations=("A linear probe at a chosen layer; the authors train two hidden layers of 512 and 256 on the last.",
                    "A statement is read after its question; theirs stands alone.",
                    "Facts of retain rows in place of MQuAKE: they are about other entities than the forget rows.",
                    "0.5 is not chance, for wrong answers differ in style: on the test bed rows never seen have 0.69, "
                    "known ones 0.86. Read it beside the retrained control.",
                    "The interval takes the fitted probe as fixed."),
        higher_is="knows", range=(0.0, 1.0), ideal="reference", access="weights",
        probes=(("statements", ("forget", "retain")),),
    )
    Spec: ClassVar[type[plugin.Spec]] = ConflictOptions
    must_show = (
        Property("near", {"world": "perfect", "is_": 1.0, "within": 0.05}, "knowledge intact"),
        Property("near", {"world": "retrained", "is_": 0.5, "within": 0.15}, "never seen"),
        Property("orders", {"worlds": ("original", "retrained")}),
        Property("needs", {"without": ("statements", "forget", None), "says": "statements"}),
    )

    def sample(self, evidence: Evidence, split: Split | None = None) -> Strata:
        return self.grouped(evidence, split)[0]

    def grouped(self, evidence: Evidence, split: Split | None = None) -> tuple[Strata, Groups]:
        source = evidence.subject if self.spec.probe == "own" else evidence.original
        if source is None:
            raise NotAvailable("no original model was given (--original)")
        known = StatementTable.of(rows_by_id(evidence.of(source), "statements", "retain"), "retain")
        asked = StatementTable.of(rows_by_id(evidence, "statements", "forget"), "forget")
        logit_n = probed(known, asked)
        sides = {"true": asked.right_n == 1, "wrong": asked.right_n == 0}
        return ({name: logit_n[chosen_n] for name, chosen_n in sides.items()},
                {name: [asked.entities[i] for i in chosen_n.nonzero()[0]] for name, chosen_n in sides.items()})

    def statistic(self, strata: Strata) -> float:
        return auc(strata["true"], strata["wrong"])
