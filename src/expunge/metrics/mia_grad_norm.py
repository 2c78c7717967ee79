"""Membership by the norm of one row's loss gradient."""

from __future__ import annotations

from math import isnan
from typing import ClassVar

from expunge.metrics.base import Evidence, MetricCard, NotAvailable, Strata
from expunge.metrics.membership import MUST_SHOW, SPLITS_READ, MembershipAttack
from expunge.metrics.rows import column
from expunge.plugin import Property
from expunge.records.observation import Row
from expunge.records.task import Split


class MiaGradNorm(MembershipAttack):
    card = MetricCard(
        name="mia.grad_norm",
        kind="metric",
        summary="AUC of separating forget from never-seen rows by the norm of their gradient",
        paper="OpenUnlearning, arXiv 2506.12618 (GradNorm)",
        formula="AUC of mean over parameters of ||dL(x)/dparameter||_2, holdout against forget",
        defaults="p = 2, one row at a time, as published",
        deviations=("L here counts the end token, as the training loss does; the other attacks leave it out.",),
        higher_is="knows", range=(0.0, 1.0), ideal=0.5, access="gradients",
        probes=(("gradient", SPLITS_READ),),
    )
    must_show: ClassVar[tuple[Property, ...]] = (
        *(p for p in MUST_SHOW if p.check not in ("needs", "uses_end")),
        Property("needs", {"without": ("gradient", "holdout", None), "says": "holdout"}),
    )

    def unfamiliarity(self, row: Row) -> float:
        if isnan(row["norm"]):
            raise NotAvailable(f"the gradient of row {row['id']!r} is not a number (NaN): the model is broken there")
        return float(row["norm"])

    def sample(self, evidence: Evidence, split: Split | None = None) -> Strata:
        return {side: column([self.unfamiliarity(row) for row in evidence.rows("gradient", side, "answer")],
                             f"no {side} row has a gradient") for side in SPLITS_READ}
