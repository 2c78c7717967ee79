"""Persuasion: does a model follow a context that contradicts what it says without one?"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from expunge import plugin
from expunge.metrics.base import Evidence, GroupOptions, MetricCard, RowMetric
from expunge.metrics.text.rouge import rouge
from expunge.plugin import Property
from expunge.records.observation import Row
from expunge.records.task import SPLITS, Split

SAME = 0.3
"""ROUGE-L F1 above which two answers count as one, as in the authors' code."""
ALONE, AGAINST = "alone", "contradicts"


class PersuasionOptions(GroupOptions):
    read: Literal["persuaded", "stubborn"] = Field("persuaded", description=(
        "persuaded: the answer is the one that the row asks for, which after a context is the context's; stubborn: it "
        "is not, and is the same as without the context"))


def same(reference: str, text: str) -> bool:
    """Whether two short answers are one; an answer without a letter or digit is none."""
    plain = [part.lower().replace("answer", "").replace(":", "").strip() for part in (reference, text)]
    return (rouge(plain[0], plain[1], "rougeL", "f1", True) or 0.0) > SAME


class Persuasion(RowMetric):
    card = MetricCard(
        name="persuasion", kind="metric",
        summary="Share of questions answered as the context before them says, also against what the model knows",
        paper="DYNAMICQA, Findings of EMNLP 2024 (arXiv 2407.17023)",
        formula="mean 1[F1(answer, context's object) > 0.3]; stubborn: not so, and F1(answer, answer alone) > 0.3",
        defaults="ROUGE-L F1 with stemmer above 0.3, as in the authors' code",
        deviations=("A stubborn model that was told to forget holds to the old answer: residual knowledge. But a "
                    "model that repeats any answer is stubborn too. Read it beside a retrained one.",
                    "Persuaded is read of all rows unless a group is named (group=contradicts); stubborn of rows of "
                    "the group contradicts whose question is asked in the group alone too."),
        higher_is="neutral", range=(0.0, 1.0), ideal="reference", access="text",
        probes=(("generation", SPLITS),), per_split=True,
    )
    Spec: ClassVar[type[plugin.Spec]] = PersuasionOptions
    must_show = (
        Property("persuasion_by_hand", {}, "persuaded, stubborn and neither, of made-up rows"),
        Property("needs", {"without": ("generation", "neighbour", None), "split": "neighbour", "says": "generation"}),
    )

    def values(self, evidence: Evidence, split: Split) -> dict[str, float]:
        rows = evidence.rows("generation", split, "prompt")
        if self.spec.read == "persuaded":
            return {r["id"]: float(same(r["short"] or r["reference"], r["text"])) for r in rows}
        alone = {_question(r): r["text"] for r in rows if r["group"] == ALONE}
        return {r["id"]: float(not same(r["short"] or r["reference"], r["text"])
                               and same(alone[_question(r)], r["text"]))
                for r in rows if r["group"] == AGAINST and _question(r) in alone}

    def missing(self, split: Split) -> str:
        return f"no {split} question is asked alone and after a context that contradicts its answer"


def _question(row: Row) -> str:
    """What rows about one question share: the id up to the last part."""
    return str(row["id"]).rpartition("/")[0]
