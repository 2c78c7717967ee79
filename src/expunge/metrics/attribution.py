"""Attribution: whether the words that carried the answer still do, and whether stressing them brings it back."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from expunge import plugin
from expunge.metrics.base import Evidence, MetricCard, RowMetric
from expunge.metrics.layers import rows_by_id
from expunge.metrics.text.key_words import key_indices
from expunge.metrics.text.matching import contains
from expunge.metrics.text.units import units
from expunge.plugin import Property
from expunge.records.observation import Row
from expunge.records.task import SPLITS, Split


class AttributionOptions(plugin.Spec):
    read: Literal["kept", "overlap", "recovered", "destroyed", "raised"] = Field("kept", description=(
        "kept: contribution left to the original's key words, as a share; overlap: of the key words of both models "
        "(Jaccard); recovered: of rows that only the original answers, those answered with the key words stressed; "
        "destroyed: of rows that the original answers, those not answered any more; raised: what the stress adds to "
        "the mean log p of the answer, in nats"))
    alpha: float = Field(0.1, ge=0, lt=1, description="Share of the largest contribution a key word must exceed.")
    beta: int = Field(5, ge=1, description="Below this many contributing words, all of them are key words.")


def kept(own: list[float], original: list[float], keys: list[int]) -> float:
    """sum of max(C, 0) over the original's key words, over the same sum in the original; at most 1."""
    return min(sum(max(own[i], 0.0) for i in keys) / sum(original[i] for i in keys), 1.0)


def says(row: Row, text: str) -> bool:
    """Whether a text has the bare fact of the row, or without one its whole answer."""
    return contains(text, row["short"] if units(row["short"]) else row["reference"], row["reference"])


class Attribution(RowMetric):
    card = MetricCard(
        name="attribution", kind="metric",
        summary="Share of the contribution of a question's key words to its answer that is left after unlearning",
        paper="UNPACT, Understanding the Dilemma of Unlearning, 2025 (arXiv 2509.24675)",
        formula="sum_K max(C_i, 0) / sum_K C_i^0, K = {i : C_i^0 > alpha max C^0}, C_i = LP(x, y) - LP(x without i, y)",
        defaults="alpha 0.1, beta 5: our choice",
        needs=frozenset({"original"}),
        deviations=("alpha, beta and the normalisation by the maximum could not be confirmed",
                    "an answer counts as right where it has the bare fact; the authors ask a judge model",
                    "the recovery and the destructive rate are options (read=recovered on forget rows, read=destroyed "
                    "on retain or utility rows)",
                    "on the test bed, whose models were taught bare questions, key words of forgotten questions lose "
                    "focus (overlap 0.31 after npo, 0.52 after refusals, 0.77 to 0.83 on retain rows; 0.31 retrained), "
                    "but stressing them brings no answer back: added words make the original itself less sure",
                    "low is no proof: a model that learned to refuse has no contribution left either. Read recovered "
                    "beside the same of a retrained model, for which a stressed word is also a hint"),
        higher_is="neutral", range=None, ideal="reference", access="logits",
        probes=(("contributions", SPLITS),), per_split=True,
    )
    Spec: ClassVar[type[plugin.Spec]] = AttributionOptions
    must_show = (
        Property("orders", {"worlds": ("original", "retrained", "collapsed"), "split": "forget"},
                 "the words carry the answer until it is forgotten"),
        Property("near", {"world": "original", "is_": 1.0, "within": 1e-9, "split": "forget"}, "nothing changed"),
        Property("attribution_by_hand", {}, "key words, shares, recovery and destruction of made-up rows"),
        Property("needs", {"without": ("contributions", "forget", None), "split": "forget", "says": "contributions"}),
    )

    def values(self, evidence: Evidence, split: Split) -> dict[str, float]:
        rows = {key: row for key, row in rows_by_id(evidence, "contributions", split).items() if row["words"]}
        found = {key: self._of(row) for key, row in rows.items()}
        return {key: value for key, value in found.items() if value is not None}

    def missing(self, split: Split) -> str:
        return {"recovered": f"no {split} row is answered by the original and not by this model",
                "destroyed": f"no {split} row is answered by the original"}.get(
            self.spec.read, f"no word of a {split} row contributes to its answer in the original")

    def _of(self, row: Row) -> float | None:
        if self.spec.read == "raised":
            return float(row["lp_stressed"] - row["lp"])
        if self.spec.read in ("recovered", "destroyed"):
            if not says(row, row["before"]):
                return None
            lost = not says(row, row["said"])
            if self.spec.read == "destroyed":
                return float(lost)
            return float(says(row, row["emphasised"])) if lost else None
        before = key_indices(row["original"], self.spec.alpha, self.spec.beta)
        if not before:
            return None
        if self.spec.read == "kept":
            return kept(row["own"], row["original"], before)
        now = set(key_indices(row["own"], self.spec.alpha, self.spec.beta))
        return len(now & set(before)) / len(now | set(before))
