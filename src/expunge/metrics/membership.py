"""Base of all membership attacks: one number per answer, then the AUC between forget and holdout rows.

An attack gives one number per row; larger = less likely to have been trained on. The value is
P(a holdout row scores higher than a forget row) + half the ties: 1 = every forget row looks more
familiar than every holdout row (memorised), 0.5 = the two are indistinguishable, 0 = forget rows
look *less* familiar than rows that were never trained on. OpenUnlearning has the same convention
(forget = label 0, holdout = label 1). MUSE prints the complement, see `privleak`.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from expunge.metrics.base import Evidence, GroupOptions, Groups, Metric, NotAvailable, Strata
from expunge.metrics.rows import all_values, column, text_values
from expunge.metrics.statistics import auc
from expunge.plugin import Property
from expunge.records.observation import Row, in_group
from expunge.records.task import Split

SPLITS_READ: tuple[Split, ...] = ("forget", "holdout")
AttackName = Literal["loss", "zlib", "min_k", "min_k_pp"]
MUST_SHOW = (
    Property("value", {"world": "perfect", "is_": 1.0}, "forget memorised, holdout never seen"),
    Property("value", {"world": "uniform", "is_": 0.5}, "every row looks the same"),
    Property("near", {"world": "retrained", "is_": 0.5, "within": 0.1}, "both never seen"),
    Property("orders", {"worlds": ("original", "retrained", "collapsed")}),
    Property("needs", {"without": ("likelihood", "holdout", None), "says": "holdout"}),
    Property("uses_end", {"matters": False}, "token-level: text only"),
)


Tokens = Literal["text", "all", "openunlearning"]

REMARKS = {"all": "the end token counts", "openunlearning": "tokens are counted as OpenUnlearning does"}
"""By default the end token is left out, which the cards say."""


class TokenOptions(GroupOptions):
    tokens: Tokens = Field("text", description=(
        "text: the answer without its end token; all: with it; openunlearning: as that code counts, with it in means "
        "over the answer, and without the last token, whichever it is, in means over the least likely tokens"))


class ShareOptions(TokenOptions):
    k: float = Field(0.4, gt=0, le=1, description="share of the answer's tokens that is used, the least likely ones")


def counted(row: Row, key: str, tokens: Tokens) -> NDArray[np.float64]:
    """Values of `key` of the tokens that a mean over the whole answer counts."""
    return text_values(row, key) if tokens == "text" else all_values(row, key)


def counted_lowest(row: Row, key: str, tokens: Tokens) -> NDArray[np.float64]:
    """Values of `key` of the tokens among which the least likely are taken."""
    return all_values(row, key)[:-1] if tokens == "openunlearning" else counted(row, key, tokens)


def lowest_mean(values: NDArray[np.float64], k: float) -> float:
    """Mean of the max(1, floor(k T)) smallest values; 0 of none, as OpenUnlearning has it."""
    if not len(values):
        return 0.0
    # 0.29 * 100 is 28.999...; without the tolerance floor would give 28.
    count = max(1, int(np.floor(k * len(values) + 1e-9)))
    return float(np.sort(values)[:count].mean())


def answers_of(evidence: Evidence, split: Split, group: str = "") -> list[Row]:
    """Likelihood rows of the answers of a split, or of one group of it; answers without a token are skipped."""
    found = [row for row in evidence.rows("likelihood", split, "answer") if in_group(row["group"], group)]
    if not found:
        raise NotAvailable(f"no {split} row is of the group {group}")
    return [row for row in found if len(text_values(row, "logp"))]


def attack_strata(attack: MembershipAttack, evidence: Evidence, prefix: str = "",
                  sides: tuple[Split, ...] = SPLITS_READ) -> dict[str, NDArray[np.float64]]:
    """The attack's number for each row of both sides; answers without a token are skipped."""
    group = getattr(attack.spec, "group", "")
    return {
        prefix + split: column([attack.unfamiliarity(row) for row in answers_of(evidence, split, group)],
                               f"every {split} answer is empty")
        for split in sides
    }


def row_groups(evidence: Evidence, probe: str = "likelihood", group: str = "",
               sides: tuple[Split, ...] = SPLITS_READ) -> dict[str, list[str]]:
    """The entity of each row that is asked for, by side; answers without a token are skipped."""
    return {side: [row["entity"] or row["id"] for row in evidence.subject.rows(probe, side, "answer")
                   if in_group(row["group"], group) and ("logp" not in row or len(text_values(row, "logp")))]
            for side in sides}


class MembershipAttack(Metric):
    """Base class of membership attacks; a subclass implements `unfamiliarity`."""

    must_show: ClassVar[tuple[Property, ...]] = MUST_SHOW

    def unfamiliarity(self, row: Row) -> float:
        """Larger = less likely to have been trained on."""
        raise NotImplementedError

    def remark(self, evidence: Evidence, split: Split | None) -> str | None:
        return REMARKS.get(getattr(self.spec, "tokens", "text"))

    def sample(self, evidence: Evidence, split: Split | None = None) -> Strata:
        return attack_strata(self, evidence)

    def grouped(self, evidence: Evidence, split: Split | None = None) -> tuple[Strata, Groups]:
        return self.sample(evidence, split), row_groups(evidence, self.card.probes[0][0],
                                                        getattr(self.spec, "group", ""))

    def statistic(self, strata: Strata) -> float:
        return auc(members=-strata["forget"], nonmembers=-strata["holdout"])
