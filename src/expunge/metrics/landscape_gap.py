"""Rise of the loss when a few tokens change: the sharpness of the loss around a text."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from expunge.metrics.base import Evidence, MetricCard, RowMetric
from expunge.metrics.layers import Array, rows_by_id, table
from expunge.metrics.rows import LOWEST
from expunge.plugin import Property
from expunge.records.observation import Row
from expunge.records.task import SPLITS, Split


def losses(rows: Mapping[str, Row], key: str) -> Array:
    """Losses in nats; an infinite loss counts as -LOWEST, so that differences stay finite."""
    return np.minimum(table(rows, key), -LOWEST)


class LandscapeGap(RowMetric):
    card = MetricCard(
        name="landscape_gap", kind="metric",
        summary="Mean rise of the loss when some tokens are replaced by similar ones, nats per token",
        paper="REMIND, arXiv 2511.04228",
        formula="mean over rows of mean_k L(x_k) - L(x)",
        defaults="neighbours as the landscape probe makes them",
        higher_is="knows", range=None, ideal="reference", access="logits",
        probes=(("landscape", SPLITS),), per_split=True,
    )
    must_show = (
        Property("orders", {"split": "forget", "worlds": ("perfect", "original", "retrained", "collapsed")},
                 "sharp when known, flat when destroyed"),
        Property("needs", {"without": ("landscape", "forget", None), "split": "forget", "says": "landscape"}),
    )

    def values(self, evidence: Evidence, split: Split) -> dict[str, float]:
        rows = rows_by_id(evidence, "landscape", split)
        gap_n = losses(rows, "losses").mean(1) - losses(rows, "l0")
        return dict(zip(rows, gap_n.tolist(), strict=True))
