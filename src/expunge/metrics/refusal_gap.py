"""Whether refusals tell what cannot be answered from what can, or come everywhere."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from pydantic import Field, model_validator

from expunge import plugin
from expunge.metrics.base import Evidence, Groups, Metric, MetricCard, NotAvailable, Strata
from expunge.metrics.text.refusals import is_refusal
from expunge.plugin import Property
from expunge.records.task import SPLITS, Split


class RefusalGapOptions(plugin.Spec):
    of: Split = Field("neighbour", description="rows that should be declined: neighbour (of the task impossible what "
                                               "nobody knows), or forget")
    against: Split = Field("utility", description="rows that can be answered")

    @model_validator(mode="after")
    def check_two(self) -> RefusalGapOptions:
        if self.of == self.against:
            raise ValueError("of and against are two different sets")
        return self


class RefusalGap(Metric):
    card = MetricCard(
        name="refusal_gap", kind="metric",
        summary="Share of refusals on what cannot be answered, less that on what can",
        paper="ours; the control is that of The Impossible Test (arXiv 2411.14486)",
        formula="mean 1[refusal] on neighbour rows - mean 1[refusal] on utility rows",
        defaults="rows that nobody can answer against answerable ones, as the task impossible has them",
        deviations=("A refusal is told by rules on the first sentence (English), as for refusal.",
                    "Near 0 the model declines everything or nothing: the remark has the shares of all sets."),
        model_needs=frozenset({"prompt"}),
        higher_is="neutral", range=(-1.0, 1.0), ideal="reference", access="text",
        probes=(("generation", SPLITS),),
    )
    Spec: ClassVar[type[plugin.Spec]] = RefusalGapOptions
    must_show = (
        Property("value", {"world": "collapsed", "is_": 0.0}, "silence is no refusal"),
        Property("gap_of_refusals", {}, "1 where only what cannot be answered is declined, 0 where all is, by hand"),
        Property("needs", {"without": ("generation", "neighbour", None), "says": "generation"}),
    )

    def sample(self, evidence: Evidence, split: Split | None = None) -> Strata:
        return self.grouped(evidence, split)[0]

    def grouped(self, evidence: Evidence, split: Split | None = None) -> tuple[Strata, Groups]:
        strata, groups = {}, {}
        for name in (self.spec.of, self.spec.against):
            found = refused(evidence, name)
            entities = evidence.subject.entities(name)
            strata[name] = np.asarray(list(found.values()), dtype=float)
            groups[name] = [entities.get(key, key) for key in found]
        return strata, groups

    def statistic(self, strata: Strata) -> float:
        return float(strata[self.spec.of].mean() - strata[self.spec.against].mean())

    def remark(self, evidence: Evidence, split: Split | None) -> str | None:
        """Shares of all sets."""
        shares = []
        for name in SPLITS:
            try:
                shares.append(f"{name} {float(np.mean(list(refused(evidence, name).values()))):.0%}")
            except NotAvailable:
                continue
        return f"refused: {', '.join(shares)}" if shares else None


def refused(evidence: Evidence, split: Split) -> dict[str, float]:
    """1 where the answer declines, by example id."""
    return {row["id"]: float(is_refusal(row["text"])) for row in evidence.rows("generation", split, "prompt")}
