"""Retain deviation: how far retained rows have moved against rows never seen, beside the retrained model."""

from __future__ import annotations

from typing import ClassVar

from expunge import plugin
from expunge.metrics.base import Evidence, Groups, Metric, MetricCard, NotAvailable, Strata
from expunge.metrics.membership import attack_strata, row_groups
from expunge.metrics.privleak import SMALLEST, RelativeOptions, membership_attack
from expunge.metrics.statistics import auc
from expunge.plugin import Property
from expunge.records.task import Split

SIDES: tuple[Split, ...] = ("retain", "holdout")


class RetainDeviation(Metric):
    """For its interval an entity is left out with the rows of both models about it."""

    card = MetricCard(
        name="retain_deviation", kind="metric",
        summary="Change of the AUC of retained against never-seen rows from the retrained model's, in per cent",
        paper="DUSK (arXiv 2505.15209), retain deviation",
        formula="100 |A - A_ret| / A_ret, A = P(a retain row looks more familiar than a holdout row)",
        defaults="attack=min_k_pp, k=0.4: DUSK; the end token is left out",
        needs=frozenset({"retain", "holdout", "retrained"}),
        deviations=("Each variance is at least 1e-6; DUSK adds 1e-6 to the standard deviation.",),
        higher_is="neutral", range=None, ideal=0.0, access="logits",
        probes=(("likelihood", SIDES),),
    )
    Spec: ClassVar[type[plugin.Spec]] = RelativeOptions
    anchored: ClassVar[bool] = True
    must_show = (
        Property("value", {"world": "retrained", "is_": 0.0}, "as the gold standard"),
        Property("needs", {"without": ("likelihood", "holdout", None), "says": "holdout"}),
        Property("needs", {"without": "retrained", "says": "no retrained model was given (--retrained)"}),
    )

    def sample(self, evidence: Evidence, split: Split | None = None) -> Strata:
        attack, reference = membership_attack(self.spec), evidence.need_retrained()
        strata = attack_strata(attack, evidence, sides=SIDES)
        try:
            return strata | attack_strata(attack, evidence.of(reference), "reference_", SIDES)
        except NotAvailable as reason:
            raise NotAvailable(f"of the retrained model, {reason}") from None

    def grouped(self, evidence: Evidence, split: Split | None = None) -> tuple[Strata, Groups]:
        theirs = row_groups(evidence.of(evidence.need_retrained()), group=self.spec.group, sides=SIDES)
        return self.sample(evidence, split), row_groups(evidence, group=self.spec.group, sides=SIDES) | {
            f"reference_{side}": of for side, of in theirs.items()}

    def statistic(self, strata: Strata) -> float:
        own, theirs = (auc(members=-strata[f"{of}retain"], nonmembers=-strata[f"{of}holdout"])
                       for of in ("", "reference_"))
        return 100 * abs(own - theirs) / max(theirs, SMALLEST)
