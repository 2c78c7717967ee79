"""Upper bound of a risk with a confidence: how much is still known of the forget rows, or lost of the others."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from pydantic import Field

from expunge import plugin
from expunge.metrics.base import Evidence, Groups, Metric, MetricCard, NotAvailable, Strata
from expunge.metrics.exact_memorization import exact_memorizations
from expunge.metrics.risk_bound import upper_bound
from expunge.plugin import Property
from expunge.records.observation import Observations
from expunge.records.score import Orientation
from expunge.records.task import SPLITS, Split


class Risk(Metric):
    """One risk for each entity: the share of answer tokens that are still, or no longer, the first choice."""

    class Spec(plugin.Spec):
        confidence: float = Field(0.95, gt=0, lt=1, description="with which the true mean lies below the value")

    card = MetricCard(
        name="risk", kind="metric",
        summary="Upper bound, at 95 %, of what is still known of forget rows or was lost of others",
        paper="FROC (arXiv 2512.13337); the bound: Bates et al. 2021 (arXiv 2101.02703)",
        formula="least a with min(exp(-n h(R, a)), e P(Binomial(n, a) <= ceil(n R))) <= 1 - confidence",
        defaults="95 %; risks are shares of answer tokens, so that --require \"forget.risk<=0.3\" is a limit",
        deviations=("FROC's risk of a setting has no bound of its own; here every entity has a risk between 0 and 1",
                    "the bound is for a model fixed before these entities were drawn. Forget rows are what the "
                    "unlearner trained on: their bound describes them, as if drawn from more of their kind that were "
                    "unlearned alike, and says nothing of entities that the unlearner never had, nor of a setting that "
                    "was chosen by them",
                    "entities are independent by assumption",
                    "on other splits than forget the risk is what the original had and the subject lost"),
        higher_is="knows", range=(0.0, 1.0), ideal="reference", access="logits",
        probes=(("likelihood", SPLITS),), per_split=True,
    )
    resampled: ClassVar[bool] = False
    must_show = (
        Property("value", {"world": "perfect", "split": "forget", "is_": 1.0}, "all is known"),
        Property("orders", {"split": "forget", "worlds": ("original", "retrained", "collapsed")}),
        Property("at_least_the_mean", {}, "never below the mean risk, nearer with more rows, and it keeps its "
                                          "confidence"),
        Property("limits_hold", {}, "a setting beyond the limit is rarely called valid; relative scores depend on the "
                                    "grid by its best members alone"),
    )

    def orientation(self, split: Split | None) -> Orientation:
        return "knows" if split == "forget" else "neutral"

    def sample(self, evidence: Evidence, split: Split | None = None) -> Strata:
        where = self.one(split)
        mine = exact_memorizations(evidence.rows("likelihood", where, "answer"))
        values = mine if where == "forget" else lost(mine, evidence.original, where)
        if not values:
            raise NotAvailable(f"every {where} answer is empty")
        owner = evidence.subject.entities(where)
        each: dict[str, list[float]] = {}
        for row, value in values.items():
            each.setdefault(owner.get(row, row), []).append(value)
        return {"entities": np.array([float(np.mean(found)) for found in each.values()])}

    def grouped(self, evidence: Evidence, split: Split | None = None) -> tuple[Strata, Groups]:
        return self.sample(evidence, split), {}

    def statistic(self, strata: Strata) -> float:
        return upper_bound(strata["entities"].tolist(), self.spec.confidence)


def lost(mine: dict[str, float], original: Observations | None, split: Split) -> dict[str, float]:
    """Row -> how much less of it is known than by the original, at least 0."""
    if original is None:
        raise NotAvailable("no original model was given (--original), so what was lost is not known")
    before = exact_memorizations(original.rows("likelihood", split, "answer"))
    return {row: max(before[row] - value, 0.0) for row, value in mine.items() if row in before}
