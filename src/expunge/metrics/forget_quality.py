"""Whether truth ratios on the forget rows are distributed as in a model that never saw these rows."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from expunge import plugin
from expunge.metrics.base import Evidence, Metric, MetricCard, NotAvailable, Strata
from expunge.metrics.by_entity import swapped_distance
from expunge.metrics.rows import by_example, column
from expunge.metrics.statistics import ks_pvalue
from expunge.metrics.truth_ratio import Variant, log_truth_ratios
from expunge.plugin import Property
from expunge.records.observation import Observations
from expunge.records.score import PairedDistance, Score
from expunge.records.task import Split


class ForgetQualityOptions(plugin.Spec):
    variant: Variant = Field("arithmetic", description=(
        "truth ratio to compare: arithmetic (paper), legacy or geometric; the last two give the same p-value "
        "up to OpenUnlearning's 1e-10"))


class ForgetQuality(Metric):
    card = MetricCard(
        name="forget_quality",
        kind="metric",
        summary="p-value of the test that truth ratios differ from those of the retrained model",
        paper="TOFU, arXiv 2401.06121, section 2.2.2",
        formula="two-sided two-sample KS p-value of {TR_i of the subject} and {TR_i of the retrained model}",
        needs=frozenset({"wrong_answers", "retrained"}),
        deviations=(
            "The interval resamples rows, which pushes a p-value towards 0: its upper end is too low.",
            "It takes the rows of the two models for independent ones, as TOFU does; `paired` in audit.json is the "
            "test of the same rows by entity.",
            "Every forget row is used; the first TOFU code stopped at 300, which changes the p-value.",
        ),
        alternatives=True, higher_is="forgot", range=(0.0, 1.0), ideal=1.0, access="logits",
        probes=(("likelihood", ("forget",)),),
    )
    Spec: ClassVar[type[plugin.Spec]] = ForgetQualityOptions
    anchored: ClassVar[bool] = True
    must_show = (
        Property("value", {"world": "retrained", "is_": 1.0}, "a model against itself"),
        Property("near", {"world": "original", "is_": 0.0, "within": 1e-3}, "it still knows"),
        Property("near", {"world": "collapsed", "is_": 0.0, "within": 1e-3}, "too far is punished as well"),
        Property("needs", {"without": "retrained", "says": "no retrained model was given (--retrained)"}),
        Property("needs", {"without": ("likelihood", "forget", "wrong"), "says": "wrong answers"}),
    )

    def sample(self, evidence: Evidence, split: Split | None = None) -> Strata:
        retrained = evidence.need_retrained()
        return {"forget": self._ratios(evidence, "the subject"),
                "reference_forget": self._ratios(evidence.of(retrained), "the retrained model")}

    def statistic(self, strata: Strata) -> float:
        """The test depends on ranks only, so logarithms are compared: they do not overflow."""
        return ks_pvalue(strata["forget"], strata["reference_forget"])

    def score(self, evidence: Evidence, split: Split | None = None, *, resamples: int = 1000,
              seed: int = 0) -> Score:
        """With the test of the same rows, paired by entity, beside the published p-value."""
        score = super().score(evidence, split, resamples=resamples, seed=seed)
        if score.value is None:
            return score
        entities, retrained = evidence.subject.entities("forget"), self._by_row(evidence.of(evidence.retrained[0]))

        def beside(model: Observations) -> PairedDistance | None:
            try:
                return swapped_distance(self._by_row(evidence.of(model)), retrained, entities, seed)
            except (NotAvailable, ValueError):
                return None

        paired = beside(evidence.subject)
        if paired is None:
            return score
        original = beside(evidence.original) if evidence.original else None
        others = [found.distance for other in evidence.retrained[1:] if (found := beside(other))]
        return score.model_copy(update={"paired": paired.model_copy(update={
            "room": original.distance if original else None, "floor": max(others, default=None)})})

    def _by_row(self, evidence: Evidence) -> dict[str, float]:
        return log_truth_ratios(by_example(evidence.rows("likelihood", "forget")), self.spec.variant)

    def _ratios(self, evidence: Evidence, model: str) -> NDArray[np.float64]:
        try:
            return column(self._by_row(evidence), "no forget row has wrong answers")
        except NotAvailable as reason:
            raise NotAvailable(f"of {model}, {reason}") from None
