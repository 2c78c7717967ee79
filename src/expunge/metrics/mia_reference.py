"""Membership by the loss minus that of a model that never saw the row."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from expunge import plugin
from expunge.metrics.base import Evidence, MetricCard, Strata
from expunge.metrics.membership import MUST_SHOW, SPLITS_READ, MembershipAttack, TokenOptions, Tokens
from expunge.metrics.mia_loss import loss
from expunge.metrics.rows import column, text_values
from expunge.plugin import Property
from expunge.records.observation import Observations, in_group
from expunge.records.task import Split


def losses(observations: Observations, split: Split, tokens: Tokens = "text", group: str = "") -> dict[str, float]:
    """L(x) by row id, nats per token; answers without a token, and of other groups, are left out."""
    rows = observations.rows("likelihood", split, "answer")
    return {row["id"]: loss(row, tokens) for row in rows
            if in_group(row["group"], group) and len(text_values(row, "logp"))}


class MiaReference(MembershipAttack):
    """The reference is the first retrained model; the second one, if given, is the control."""

    card = MetricCard(
        name="mia.reference",
        kind="metric",
        summary="AUC of separating forget from never-seen rows by their loss minus a retrained model's",
        paper="Carlini et al., arXiv 2012.07805 (reference model); OpenUnlearning, arXiv 2506.12618",
        formula="AUC of L(x) - L_ref(x), holdout against forget, L_ref of the first retrained model",
        defaults="the end token is left out; OpenUnlearning counts it (tokens=openunlearning)",
        needs=frozenset({"holdout", "retrained"}),
        deviations=("The reference is always a retrained model: the difficulty of a row cancels as far as "
                    "two trainings without it agree. The reference itself has no value: all differences would be 0.",),
        higher_is="knows", range=(0.0, 1.0), ideal=0.5, access="logits",
        probes=(("likelihood", SPLITS_READ),),
    )
    Spec: ClassVar[type[plugin.Spec]] = TokenOptions
    anchored: ClassVar[bool] = True
    must_show: ClassVar[tuple[Property, ...]] = (
        *(p for p in MUST_SHOW if p.args.get("world") not in ("uniform", "perfect")),
        Property("near", {"world": "perfect", "is_": 1.0, "within": 0.01}, "forget memorised, holdout never seen"),
        Property("near", {"world": "uniform", "is_": 0.5, "within": 0.1}, "only noise of the reference remains"),
        Property("needs", {"without": "retrained", "says": "no retrained model was given (--retrained)"}),
    )

    def sample(self, evidence: Evidence, split: Split | None = None) -> Strata:
        reference = evidence.need_retrained()
        strata: dict[str, NDArray[np.float64]] = {}
        for side in SPLITS_READ:
            evidence.rows("likelihood", side, "answer")  # raises NotAvailable when there are none
            own, other = (losses(asked, side, self.spec.tokens, self.spec.group)
                          for asked in (evidence.subject, reference))
            strata[side] = column([own[id] - other[id] for id in own if id in other],
                                  f"the retrained model was not asked the {side} rows, or every answer is empty")
        return strata

    def _controls(self, evidence: Evidence, split: Split | None) -> dict[str, float | None]:
        controls = super()._controls(evidence, split)
        # Compared with itself, every difference is 0 and the AUC would be 0.5 by construction.
        return controls | {"retrained": None} if len(evidence.retrained) == 1 else controls
