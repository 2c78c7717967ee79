"""Unlearning Depth Score: share of the forget facts in the hidden states that was erased."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from expunge import plugin
from expunge.metrics.base import Evidence, Metric, MetricCard, NotAvailable, Strata
from expunge.metrics.layers import Array, rows_by_id, table
from expunge.plugin import Property
from expunge.records.observation import Row
from expunge.records.task import Split

MISFIT = 0.5
"""Drop on retain rows, as a share of the drop on forget rows, above which the retrained states do not fit."""


class UDSOptions(plugin.Spec):
    least: float = Field(0.05, gt=0, description="drop above which a block counts as holding the fact, nats per token")
    last: Literal["block", "normed"] = Field("block", description=(
        "what is patched in after the last block: its output, or what the final norm makes of it, as in the authors' "
        "code, where it is normed a second time"))


def depth_scores(drop_nL: Array, retrained_nL: Array, least: float = 0.05) -> Array:
    """UDS per row from the drops with the subject's and with the retrained model's states, shape n; NaN where no
    block holds the fact."""
    held_nL = retrained_nL > least
    weight_nL = np.where(held_nL, retrained_nL, 0.0)
    # D_ret * clip(D / D_ret, 0, 1) without the division.
    erased_nL = np.where(held_nL, np.clip(drop_nL, 0, weight_nL), 0.0)
    total_n = weight_nL.sum(1)
    return np.divide(erased_nL.sum(1), total_n, out=np.full(len(total_n), np.nan), where=total_n > 0)


class UDS(Metric):
    card = MetricCard(
        name="uds", kind="metric",
        summary="Unlearning depth: share of what the blocks hold of the forget facts that is erased",
        paper="Unlearning Depth Score, arXiv 2605.24614",
        formula="sum_l D_l(ret) clip(D_l / D_l(ret), 0, 1) / sum_l D_l(ret) over blocks with D_l(ret) > 0.05",
        defaults="0.05 nats, as published",
        needs=frozenset({"original", "retrained"}),
        deviations=(
            "The states of a retrained model from another initialisation do not fit: patched into the original, they "
            "destroy every answer. When they cost retain rows more than half of what they cost forget rows, "
            "there is no score.",
            "Rows where no block holds the fact are left out, as published; n says how many are left.",
            "A suppressed last block counts for what that block holds: 0.52 on a test model of three blocks, where the "
            "two below were untouched; a changed output norm or head counts 0.",
            "last=normed is the authors' number. There the original itself does not score 0: its last block is normed "
            "twice as well.",
        ),
        higher_is="forgot", range=(0.0, 1.0), ideal=1.0, access="weights",
        probes=(("depth", ("forget", "retain")),),
    )
    Spec: ClassVar[type[plugin.Spec]] = UDSOptions
    anchored: ClassVar[bool] = True
    must_show = (
        Property("value", {"world": "retrained", "is_": 1.0}, "its own states are the reference"),
        Property("value", {"world": "original", "is_": 0.0}, "nothing was erased"),
        Property("orders", {"worlds": ("retrained", "hiding", "original")}, "only the last block was changed"),
        Property("needs", {"without": "retrained", "says": "no retrained model was given (--retrained)"}),
        Property("needs", {"without": ("depth", "forget", None), "says": "depth"}),
    )

    def sample(self, evidence: Evidence, split: Split | None = None) -> Strata:
        reference = evidence.of(evidence.need_retrained())
        if evidence.original is None:
            raise NotAvailable("no original model was given (--original)")
        rows, retrained_rows = (rows_by_id(side, "depth", "forget") for side in (evidence, reference))
        ids = [key for key in rows if key in retrained_rows]
        if not ids:
            raise NotAvailable("subject and retrained model share no forget row")
        drop_nL, retrained_nL = (self._drops({key: side[key] for key in ids}) for side in (rows, retrained_rows))
        if reference.subject.rows("depth", "retain"):
            # Of outputs of blocks, whatever `last` is: what is normed twice fits no row.
            on_retain, on_forget = (float(table(side, "drops").mean()) for side in (
                rows_by_id(reference, "depth", "retain"), {key: retrained_rows[key] for key in ids}))
            if on_retain > max(MISFIT * on_forget, self.spec.least):
                raise NotAvailable(
                    f"the retrained model's states do not fit the original: patched in, they cost retain rows "
                    f"{on_retain:.2g} nats per token and forget rows {on_forget:.2g}; so it is where it "
                    f"was trained from another initialisation, such as with another seed")
        score_n = depth_scores(drop_nL, retrained_nL, self.spec.least)
        kept_n = score_n[~np.isnan(score_n)]
        if not len(kept_n):
            raise NotAvailable("no block of the original holds a forget fact that the retrained model lacks")
        return {"forget": kept_n}

    def _drops(self, rows: dict[str, Row]) -> Array:
        """Drops per row and block, shape n L."""
        drop_nL = table(rows, "drops")
        if self.spec.last == "block":
            return drop_nL
        if any("normed" not in row for row in rows.values()):
            raise NotAvailable("the observations hold no drop with a normed last block: the model has no final norm, "
                               "or they are older than this option")
        return np.concatenate([drop_nL[:, :-1], table(rows, "normed")], 1)
