"""A lower bound on epsilon, from rows of which a fair coin put some into training."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from expunge import plugin
from expunge.metrics.base import Evidence, Groups, Metric, MetricCard, NotAvailable, Strata
from expunge.metrics.canary_bound import MOST, one_run_bound
from expunge.metrics.membership import SPLITS_READ, attack_strata, row_groups
from expunge.metrics.mia_loss import MiaLoss
from expunge.plugin import Property
from expunge.records.task import Split

UNLIKELY = 1e-3
"""Fair coins fall as unevenly as this so rarely that the rows were chosen in another way."""


class Canaries(Metric):
    """Each entity is one canary: in training where it is a forget row, left out where it is a holdout row."""

    class Spec(plugin.Spec):
        confidence: float = Field(0.95, gt=0, lt=1, description="of the bound")
        delta: float = Field(0.0, ge=0, lt=1, description="of the mechanism that is audited")
        share: float = Field(1.0, gt=0, le=1, description="of the canaries that are guessed, the highest and lowest "
                                                          "scores; choose it before you look")

    card = MetricCard(
        name="canaries", kind="metric",
        summary="Lower bound on epsilon of an entity: fair coins put each into training, or left it out",
        paper="Steinke, Nasr and Jagielski 2023 (arXiv 2305.08846): auditing with one run",
        formula="largest e with P(Binomial(guesses, 1 / (1 + exp(-e))) >= correct) <= 1 - confidence",
        defaults="95 %, delta 0, every canary is guessed",
        needs=frozenset({"holdout"}),
        deviations=("canaries are scored by their loss; rows of one entity are one canary, so that the bound is on "
                    "epsilon of an entity and may lie above that of a row",
                    "with delta 0, the default, it bounds a mechanism without a delta: it may lie above an "
                    "accountant's (epsilon, delta); give delta= the accountant's to compare",
                    "it is refused where forget and holdout entities are no likely draw of fair coins"),
        higher_is="knows", range=(0.0, MOST), ideal=0.0, access="logits",
        probes=(("likelihood", SPLITS_READ),),
    )
    resampled: ClassVar[bool] = False
    must_show = (
        Property("orders", {"worlds": ("perfect", "uniform")}, "what was memorised is told, what is alike is not"),
        Property("value", {"world": "uniform", "is_": 0.0}, "nothing is shown"),
        Property("needs", {"without": ("likelihood", "holdout", None), "says": "holdout"}),
        Property("bounds_keep_their_confidence", {}, "of mechanisms with a known epsilon, few bounds lie above it"),
    )

    def sample(self, evidence: Evidence, split: Split | None = None) -> Strata:
        from scipy.stats import binomtest

        rows, owners = attack_strata(MiaLoss(), evidence), row_groups(evidence)
        strata: dict[str, NDArray[np.float64]] = {}
        for side in SPLITS_READ:
            each: dict[str, list[float]] = {}
            for owner, loss in zip(owners[side], rows[side], strict=True):
                each.setdefault(owner, []).append(-float(loss))
            strata[side] = np.array([float(np.mean(found)) for found in each.values()])
        inside, outside = (len(strata[side]) for side in SPLITS_READ)
        if binomtest(inside, inside + outside).pvalue < UNLIKELY:
            raise NotAvailable(f"{inside} forget and {outside} holdout entities are no draw of fair coins, which the "
                               "bound rests on")
        return strata

    def grouped(self, evidence: Evidence, split: Split | None = None) -> tuple[Strata, Groups]:
        return self.sample(evidence, split), {}

    def statistic(self, strata: Strata) -> float:
        scores = [*strata["forget"], *strata["holdout"]]
        inside = [True] * len(strata["forget"]) + [False] * len(strata["holdout"])
        spec = self.spec
        return one_run_bound(scores, inside, delta=spec.delta, confidence=spec.confidence, share=spec.share).epsilon
