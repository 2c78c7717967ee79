"""Relative distance of the weights from the original's."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from expunge import plugin
from expunge.metrics.base import Evidence, Metric, MetricCard, NotAvailable, Strata
from expunge.metrics.layers import Array, rows_by_id, table
from expunge.plugin import Property
from expunge.records.task import Split


class WeightDistanceOptions(plugin.Spec):
    over: Literal["all", "largest"] = Field("all", description=(
        "all: over all weights; largest: of the part (block, embeddings, head) that moved most"))


def distance(change_p: Array, norm_p: Array) -> float:
    """||w - w0|| / ||w0|| of several parts together."""
    return float(np.sqrt((change_p**2).sum() / (norm_p**2).sum()))


class WeightDistance(Metric):
    card = MetricCard(
        name="weight_distance", kind="metric",
        summary="Relative distance of the weights from the original's",
        paper="plain definition, no source of its own",
        formula="||w - w0|| / ||w0||",
        defaults="all weights together; the rows hold every block",
        needs=frozenset({"original"}),
        deviations=("There is no interval: nothing is sampled. n is the number of parts.",
                    "A retrained model from another initialisation is far away for that reason alone."),
        higher_is="neutral", range=None, ideal="reference", access="weights",
        probes=(("weights", ("forget",)),),
    )
    Spec: ClassVar[type[plugin.Spec]] = WeightDistanceOptions
    resampled: ClassVar[bool] = False
    must_show = (
        Property("value", {"world": "original", "is_": 0.0}, "nothing moved"),
        Property("value", {"world": "hiding", "is_": 0.3}, "one of two equal blocks by 0.3 sqrt 2"),
        Property("needs", {"without": ("weights", "forget", None), "says": "weights"}),
    )

    def sample(self, evidence: Evidence, split: Split | None = None) -> Strata:
        if evidence.original is None:
            raise NotAvailable("no original model was given (--original)")
        rows = rows_by_id(evidence, "weights", "forget")
        return {"forget": np.column_stack([table(rows, "change"), table(rows, "norm")])}

    def statistic(self, strata: Strata) -> float:
        change_p, norm_p = strata["forget"].T
        if self.spec.over == "largest":
            return float(np.divide(change_p, norm_p, out=np.zeros_like(change_p), where=norm_p > 0).max())
        return distance(change_p, norm_p)
