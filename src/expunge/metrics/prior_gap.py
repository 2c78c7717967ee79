"""The override gap: how much harder firm beliefs are to overwrite than weak ones."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from pydantic import Field

from expunge import plugin
from expunge.metrics.base import Evidence, Groups, Metric, MetricCard, NotAvailable, Strata
from expunge.metrics.layers import Array
from expunge.metrics.rows import by_example
from expunge.plugin import Property
from expunge.records.task import SPLITS, Split


class PriorGapOptions(plugin.Spec):
    parts: int = Field(4, ge=2, description="Groups of rows, from the weakest belief to the firmest.")


def by_prior(overridden_N: Array, prior_N: Array, parts: int) -> Array:
    """Share of overridden rows in each of `parts` groups of equal size (of fewer rows, one each), ordered by prior, the
    weakest first."""
    order = np.argsort(prior_N, kind="stable")
    return np.asarray([overridden_N[part].mean() for part in np.array_split(order, min(parts, len(order)))])


class PriorGap(Metric):
    card = MetricCard(
        name="prior_gap", kind="metric",
        summary="Share of the weakest beliefs that are overwritten, less that of the firmest",
        paper="The Override Gap, 2026 (arXiv 2604.23750)",
        formula="mean_(first quartile) o - mean_(last quartile) o; o = 1 where a wrong answer is likelier than the "
                "right one, quartiles by log p_bar(right) of the original",
        defaults="quartiles, as in the paper",
        needs=frozenset({"original"}),
        deviations=("The paper's accuracy is of answers in words; here the likelier of the given answers counts.",
                    "A method that overwrites everything, or nothing, has no gap: the remark has all quartiles."),
        alternatives=True, higher_is="neutral", range=(-1.0, 1.0), ideal=0.0, access="logits",
        probes=(("likelihood", SPLITS),), per_split=True,
    )
    Spec: ClassVar[type[plugin.Spec]] = PriorGapOptions
    must_show = (
        Property("value", {"world": "collapsed", "split": "forget", "is_": 0.0}, "everything is overwritten"),
        Property("needs", {"without": ("likelihood", "forget", "wrong"), "split": "forget", "says": "wrong"}),
        Property("falls_with_prior", {}, "shares by hand; a push of one strength overwrites fewer the firmer they "
                                         "are"),
    )

    def sample(self, evidence: Evidence, split: Split | None = None) -> Strata:
        return self.grouped(evidence, split)[0]

    def grouped(self, evidence: Evidence, split: Split | None = None) -> tuple[Strata, Groups]:
        split = self.one(split)
        if evidence.original is None:
            raise NotAvailable("no original model was given (--original)")
        first = by_example(evidence.original.rows("likelihood", split))
        rows = {key: (float(max(one.wrong) > one.answer), first[key].answer)
                for key, one in by_example(evidence.rows("likelihood", split)).items()
                if one.answer is not None and one.wrong and key in first and first[key].answer is not None}
        if len(rows) < self.spec.parts:
            raise NotAvailable(f"{len(rows)} {split} rows have a wrong answer; {self.spec.parts} or more are needed")
        entities = evidence.subject.entities(split)
        return ({split: np.asarray(list(rows.values()), dtype=float)},
                {split: [entities.get(key, key) for key in rows]})

    def statistic(self, strata: Strata) -> float:
        shares = self._shares(strata)
        return float(shares[0] - shares[-1])

    def _shares(self, strata: Strata) -> Array:
        ((overridden_N, prior_N),) = [values.T for values in strata.values()]
        return by_prior(overridden_N, prior_N, self.spec.parts)

    def remark(self, evidence: Evidence, split: Split | None) -> str | None:
        """The share of every group, the weakest belief first."""
        try:
            shares = self._shares(self.sample(evidence, split))
        except NotAvailable:
            return None
        return "overwritten, from the weakest belief to the firmest: " + ", ".join(f"{share:.2f}" for share in shares)
