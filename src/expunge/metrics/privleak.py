"""Membership leakage relative to the retrained model (PrivLeak)."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from expunge import plugin
from expunge.metrics.base import Evidence, Groups, Metric, MetricCard, NotAvailable, Strata
from expunge.metrics.membership import (
    SPLITS_READ,
    AttackName,
    MembershipAttack,
    ShareOptions,
    attack_strata,
    row_groups,
)
from expunge.metrics.mia_loss import MiaLoss
from expunge.metrics.mia_min_k import MiaMinK
from expunge.metrics.mia_min_k_pp import MiaMinKpp
from expunge.metrics.mia_zlib import MiaZlib
from expunge.metrics.statistics import auc
from expunge.plugin import Property
from expunge.records.task import Split

SMALLEST = 1e-10
"""In place of an AUC of 0 of the retrained model, which a redrawn sample can have."""


class RelativeOptions(ShareOptions):
    attack: AttackName = Field("min_k", description="which membership score: loss, zlib, min_k or min_k_pp")


class PrivLeakOptions(RelativeOptions):
    retrained_auc: float | None = Field(None, gt=0, le=1, description=(
        "AUC of a retrained model that is known, in MUSE's convention (P that a holdout row looks more familiar), in "
        "place of that of a model that is given; MUSE stores 0.4772 for muse:news and 0.5393 for muse:books"))


def privleak(auc_subject: float, auc_retrained: float) -> float:
    """100 (A - A_ret) / A_ret, in per cent, **both AUCs in MUSE's convention**.

    A = P(a holdout row looks more familiar than a forget row), so a model that memorised the
    forget set has A near 0. That is one minus the value of the `mia.*` metrics.
    """
    return 100 * (auc_subject - auc_retrained) / max(auc_retrained, SMALLEST)


def membership_attack(spec: RelativeOptions) -> MembershipAttack:
    """The attack that the options name."""
    k, tokens, group = spec.k, spec.tokens, spec.group
    attacks: dict[AttackName, MembershipAttack] = {
        "loss": MiaLoss(tokens=tokens, group=group), "zlib": MiaZlib(tokens=tokens, group=group),
        "min_k": MiaMinK(k=k, tokens=tokens, group=group), "min_k_pp": MiaMinKpp(k=k, tokens=tokens, group=group)}
    return attacks[spec.attack]


class PrivLeak(Metric):
    """For its interval an entity is left out with the rows of both models about it."""

    card = MetricCard(
        name="privleak",
        kind="metric",
        summary="Membership leakage relative to the retrained model, in per cent",
        paper="MUSE, arXiv 2407.06460, section 3; complemented as in OpenUnlearning, arXiv 2506.12618",
        formula="100 (A - A_ret) / A_ret with A = 1 - mia AUC; -100: memorised, 0: ideal, > 0: over-forgotten",
        defaults="Min-K with k = 0.4: MUSE; the end token is left out",
        needs=frozenset({"holdout", "retrained"}),
        deviations=("Not available without a retrained model or its AUC; OpenUnlearning then assumes 0.5.",
                    "OpenUnlearning adds 1e-10 to the denominator, MUSE does not, and nor do we."),
        higher_is="neutral", range=None, ideal=0.0, access="logits",
        probes=(("likelihood", SPLITS_READ),),
    )
    Spec: ClassVar[type[plugin.Spec]] = PrivLeakOptions
    anchored: ClassVar[bool] = True
    must_show = (
        Property("value", {"world": "retrained", "is_": 0.0}, "nothing leaks beyond the gold standard"),
        Property("near", {"world": "perfect", "is_": -100.0, "within": 1.0}, "under-unlearned"),
        Property("orders", {"worlds": ("collapsed", "retrained", "original")}, "ascent overshoots"),
        Property("needs", {"without": ("likelihood", "holdout", None), "says": "holdout"}),
        Property("needs", {"without": "retrained", "says": "no retrained model was given (--retrained)"}),
    )

    @property
    def needs(self) -> frozenset[str]:
        return self.card.needs - {"retrained"} if self.spec.retrained_auc else self.card.needs

    def sample(self, evidence: Evidence, split: Split | None = None) -> Strata:
        attack = membership_attack(self.spec)
        if self.spec.retrained_auc:
            return attack_strata(attack, evidence)
        retrained = evidence.need_retrained()
        strata = attack_strata(attack, evidence)
        try:
            strata |= attack_strata(attack, evidence.of(retrained), "reference_")
        except NotAvailable as reason:
            raise NotAvailable(f"of the retrained model, {reason}") from None
        if _complement(strata, "reference_") == 0:
            raise NotAvailable("the retrained model itself separates every forget row from every holdout row "
                               "(AUC 1), so the denominator is 0")
        return strata

    def grouped(self, evidence: Evidence, split: Split | None = None) -> tuple[Strata, Groups]:
        mine = row_groups(evidence, group=self.spec.group)
        if self.spec.retrained_auc:
            return self.sample(evidence, split), mine
        return self.sample(evidence, split), mine | {f"reference_{side}": of for side, of in row_groups(
            evidence.of(evidence.need_retrained()), group=self.spec.group).items()}

    def statistic(self, strata: Strata) -> float:
        return privleak(_complement(strata), self.spec.retrained_auc or _complement(strata, "reference_"))


def _complement(strata: Strata, prefix: str = "") -> float:
    """AUC in MUSE's convention: P(the holdout row is the more familiar one)."""
    return auc(members=-strata[prefix + "holdout"], nonmembers=-strata[prefix + "forget"])
