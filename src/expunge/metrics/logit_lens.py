"""Probability of the answer as read from the hidden states of inner blocks (logit lens)."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from expunge import plugin
from expunge.metrics.base import Evidence, MetricCard, RowMetric
from expunge.metrics.layers import Array, cross_chosen, entities_of, rows_by_id, table
from expunge.plugin import Property
from expunge.records.task import SPLITS, Split


class LogitLensOptions(plugin.Spec):
    read: Literal["probability", "share"] = Field("probability", description=(
        "probability: exp of the mean log-prob of the answer's tokens; share: the share of them that is the arg max"))
    layer: Literal["chosen", "final"] = Field("chosen", description=(
        "chosen: the best one, chosen on the other half of the entities; final: the model's own output"))
    gain: bool = Field(False, description="subtract the value at the final layer: what the last blocks suppress")


def lens_values(logp_nL: Array, entities: list[str], *, layer: str = "chosen", gain: bool = False) -> Array:
    """One number per row from values per row and layer (the last one is the model's output)."""
    chosen_n = cross_chosen(logp_nL, entities) if layer == "chosen" else logp_nL[:, -1]
    return chosen_n - logp_nL[:, -1] if gain else chosen_n


class LogitLens(RowMetric):
    card = MetricCard(
        name="logit_lens", kind="metric",
        summary="Probability of the answer at the block where it is most readable",
        paper="logit lens as an audit of unlearning: arXiv 2409.18025",
        formula="mean over rows of p_bar_l*(a|q), l* the best block on the other half of the entities",
        defaults="each half of the entities is read at the layer that is best for the other half",
        deviations=("Probability of the whole answer instead of multiple-choice accuracy, which needs options.",
                    "The interval takes the chosen layers as fixed."),
        higher_is="knows", range=(-1.0, 1.0), ideal="reference", access="weights",
        probes=(("lens", SPLITS),), per_split=True,
    )
    Spec: ClassVar[type[plugin.Spec]] = LogitLensOptions
    must_show = (
        Property("value", {"world": "perfect", "split": "forget", "is_": 1.0}, "certain at the end"),
        Property("orders", {"split": "forget", "worlds": ("original", "hiding", "retrained")},
                 "detects what the last block suppresses"),
        Property("needs", {"without": ("lens", "forget", None), "split": "forget", "says": "lens"}),
    )

    def values(self, evidence: Evidence, split: Split) -> dict[str, float]:
        rows = rows_by_id(evidence, "lens", split)
        values_nL = table(rows, "share") if self.spec.read == "share" else np.exp(table(rows, "lens"))
        value_n = lens_values(values_nL, entities_of(rows), layer=self.spec.layer, gain=self.spec.gain)
        return dict(zip(rows, value_n.tolist(), strict=True))
