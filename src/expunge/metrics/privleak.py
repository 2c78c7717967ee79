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

EPSILON = 1e-10


class PrivLeakOptions(ShareOptions):
    attack: AttackName = Field("min_k", description="which membership score: loss, zlib, min_k or min_k_pp")


def privleak(auc_subject: float, auc_retrained: float) -> float:
    """100 (A - A_ret) / (A_ret + 1e-10), in per cent, **both AUCs in MUSE's convention**.

    A = P(a holdout row looks more familiar than a forget row), so a model that memorised the
    forget set has A near 0. That is one minus the value of the `mia.*` metrics.
    """
    return 100 * (auc_subject - auc_retrained) / (auc_retrained + EPSILON)


def membership_attack(spec: PrivLeakOptions) -> MembershipAttack:
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
        deviations=("Not available without a retrained model; OpenUnlearning then assumes an AUC of 0.5.",),
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

    def sample(self, evidence: Evidence, split: Split | None = None) -> Strata:
        retrained, attack = evidence.need_retrained(), membership_attack(self.spec)
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
        return self.sample(evidence, split), mine | {f"reference_{side}": of for side, of in row_groups(
            evidence.of(evidence.need_retrained()), group=self.spec.group).items()}

    def statistic(self, strata: Strata) -> float:
        return privleak(_complement(strata), _complement(strata, "reference_"))


def _complement(strata: Strata, prefix: str = "") -> float:
    """AUC in MUSE's convention: P(the holdout row is the more familiar one)."""
    return auc(members=-strata[prefix + "holdout"], nonmembers=-strata[prefix + "forget"])
