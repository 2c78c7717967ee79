"""How far the change of one fact spreads: its probability in contexts where it does not belong, and in its own."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from expunge import plugin
from expunge.metrics.base import Evidence, MetricCard, NotAvailable, RowMetric
from expunge.metrics.layers import Array, rows_by_id
from expunge.plugin import Property
from expunge.records.task import SPLITS, Split

Of = Literal["priming", "memory"]


class SpreadOptions(plugin.Spec):
    of: Of = Field("priming", description="priming: in contexts of other rows; memory: in its own.")
    form: Literal["ratio", "after"] = Field("ratio", description="Over the probability in the original, or as it is.")


def decades(logps: Array) -> float:
    """log10 of the mean of exp(logps): of ratios or of probabilities, over contexts."""
    return float(np.log10(np.exp(np.clip(logps, -700, 700)).mean()))


class FactSpread(RowMetric):
    card = MetricCard(
        name="spread", kind="metric",
        summary="How much likelier bare facts became where they do not belong, in powers of ten",
        paper="Sun et al. 2025, How new data permeates LLM knowledge and how to dilute it, ICLR 2025 "
              "(arXiv 2504.09522)",
        formula="mean over rows of log10 S; S_prime = mean_j p(fact | x_j) / p0(fact | x_j), S_mem = p(fact | x) / "
                "p0(fact | x), p0 the original",
        defaults="priming, as a ratio; 0 where nothing changed. of=memory is the change in its own context",
        needs=frozenset({"original"}),
        deviations=("Powers of ten, averaged over rows; the paper gives the ratio of single texts.",
                    "The paper's model learns one text; here all forget rows change at once.",
                    "The probability before is the denominator, so a rare fact has a large ratio by arithmetic: "
                    "form=after is the probability itself, and the remark has both."),
        higher_is="neutral", range=None, ideal="reference", access="logits",
        probes=(("priming", SPLITS),), per_split=True,
    )
    Spec: ClassVar[type[plugin.Spec]] = SpreadOptions
    must_show = (
        Property("value", {"world": "original", "split": "forget", "is_": 0.0}, "nothing changed"),
        Property("near", {"world": "collapsed", "split": "forget", "is_": -2.0, "within": 1e-6}, "a hundredth"),
        Property("needs", {"without": ("priming", "forget", None), "split": "forget", "says": "priming"}),
        Property("spread_by_hand", {}, "both ratios and both probabilities after; not available without an original"),
    )

    def values(self, evidence: Evidence, split: Split) -> dict[str, float]:
        if evidence.original is None:
            raise NotAvailable("no original model was given (--original)")
        mine = rows_by_id(evidence, "priming", split)
        first = rows_by_id(evidence.of(evidence.original), "priming", split)
        name = "themed" if self.spec.of == "priming" else "own"
        ratio = self.spec.form == "ratio"
        return {key: decades(np.asarray(row[name]) - (np.asarray(first[key][name]) if ratio else 0))
                for key, row in mine.items() if key in first}

    def missing(self, split: Split) -> str:
        return f"no {split} row was asked of both models"

    def remark(self, evidence: Evidence, split: Split | None) -> str | None:
        """Mean probabilities before and after, in both kinds of contexts."""
        if evidence.original is None or split is None:
            return None
        parts = []
        for name, where in (("own", "its own context"), ("themed", "others")):
            means = [float(np.mean([np.exp(row[name]).mean() for row in rows_by_id(one, "priming", split).values()]))
                     for one in (evidence.of(evidence.original), evidence)]
            parts.append(f"{means[0]:.2g} to {means[1]:.2g} in {where}")
        return f"probability of the fact: {', '.join(parts)}"
