"""Mean membership score of the rows of one split, as RWKU reports it of members to forget and to keep."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from expunge import plugin
from expunge.metrics.base import Evidence, GroupOptions, MetricCard, RowMetric
from expunge.metrics.membership import AttackName, answers_of
from expunge.metrics.mia_min_k import FEWER
from expunge.metrics.privleak import RelativeOptions, membership_attack
from expunge.plugin import Property
from expunge.records.task import SPLITS, Split


class MembershipScoreOptions(GroupOptions):
    score: AttackName = Field("loss", description="which score: loss, zlib, min_k or min_k_pp")
    k: float = Field(0.2, gt=0, le=1, description="share of the tokens that min_k and min_k_pp use")


class MembershipScore(RowMetric):
    card = MetricCard(
        name="membership_score", kind="metric",
        summary="Mean membership score of a split's rows: how unlikely they are to have been trained on",
        paper="RWKU, NeurIPS 2024 (arXiv 2406.10890), membership columns",
        formula="mean over rows of -(1/T) sum_t log p_t (loss), or of the other scores",
        defaults="loss; k = 0.2: RWKU, whose tables show 100 times the value",
        deviations=("The sign is that of a loss: larger is less familiar; RWKU's files hold the negative.",
                    "Each variance in Min-K++ is at least 1e-6; RWKU divides by it as it is.",
                    "What RWKU's files call mink20 is Min-K++ (score=min_k_pp).",
                    FEWER, "A row that is not a number is refused; RWKU leaves it out."),
        higher_is="forgot", range=None, ideal="reference", access="logits",
        probes=(("likelihood", SPLITS),), per_split=True,
    )
    Spec: ClassVar[type[plugin.Spec]] = MembershipScoreOptions
    must_show = (
        Property("value", {"world": "perfect", "split": "forget", "is_": 0.0}, "p = 1 for every token"),
        Property("value", {"world": "uniform", "split": "forget", "is_": 2.0}, "each token at exp(-2)"),
        Property("orders", {"split": "forget", "worlds": ("collapsed", "retrained", "original")}),
        Property("needs", {"without": ("likelihood", "forget", None), "split": "forget", "says": "likelihood"}),
        Property("uses_end", {"split": "forget", "matters": False}, "token-level: text only"),
    )

    def values(self, evidence: Evidence, split: Split) -> dict[str, float]:
        attack = membership_attack(RelativeOptions(attack=self.spec.score, k=self.spec.k))
        return {row["id"]: attack.unfamiliarity(row) for row in answers_of(evidence, split)}

    def missing(self, split: Split) -> str:
        return f"no {split} row has an answer with a token"
