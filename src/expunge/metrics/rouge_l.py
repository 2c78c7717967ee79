"""Share of the reference that the greedy answer repeats (ROUGE-L)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar, Literal

from pydantic import Field

from expunge import plugin
from expunge.metrics.base import Evidence, GroupOptions, MetricCard
from expunge.metrics.repeated import RepeatedAnswer
from expunge.metrics.text.rouge import Letters, rouge
from expunge.metrics.text.units import is_dense, units
from expunge.records.observation import Row
from expunge.records.task import SPLITS, Split

Measure = Literal["recall", "f1"]
LETTERS = ("all: words of any script; ascii: as the package rouge_score of the published code, which reads a-z and 0-9 "
           "alone and gives 0 where the true answer has none of them")


class RougeOptions(GroupOptions):
    measure: Measure = Field("recall", description="recall (TOFU) or f1 (MUSE)")
    stemmer: bool = Field(True, description="Porter stemmer on both texts: on in TOFU, off in MUSE")
    letters: Letters = Field("all", description=LETTERS)


def rouge_l(reference: str, text: str, measure: Measure = "recall", stemmer: bool = True,
            letters: Letters = "all") -> float | None:
    """LCS(ref, text) / |ref| in words (recall), or its harmonic mean with LCS / |text| (f1), in 0..1.

    In characters where the reference is in a script without spaces. None when it has no letter and no digit.
    """
    return rouge(reference, text, "rougeL", measure, stemmer, letters)


def rouges(rows: Iterable[Row], measure: Measure = "recall", stemmer: bool = True) -> dict[str, float]:
    """ROUGE-L of the answer to the plain prompt, by example id; rows without a reference are left out."""
    scored = {r["id"]: rouge_l(r["reference"], r["text"], measure, stemmer)
              for r in rows if r["form"] == "prompt"}
    return {key: value for key, value in scored.items() if value is not None}


def how_compared(rows: Iterable[Row], letters: Letters = "all") -> str | None:
    """Which rows were compared by characters, and which were left out; None where all were compared by words."""
    if letters == "ascii":
        return "only a-z and 0-9 are read, as in the published code"
    references = {r["id"]: r["reference"] for r in rows}.values()
    dense, lost = sum(map(is_dense, references)), sum(not units(reference) for reference in references)
    said = [f"{dense} of {len(references)} true answers are compared by characters, since their script has no spaces "
            "between words"] * bool(dense)
    said += [f"{lost} of {len(references)} rows are left out, since their true answer has no letter or "
             "digit"] * bool(lost)
    return "; ".join(said) or None


class RougeL(RepeatedAnswer):
    card = MetricCard(
        name="rouge_l",
        kind="metric",
        summary="ROUGE-L recall of the greedy answer against the reference",
        paper="TOFU, arXiv 2401.06121, section 2.2.1; ROUGE, Lin 2004",
        formula="mean LCS(ref, answer) / |ref|",
        defaults="TOFU: recall with stemmer. MUSE: rouge_l(measure=f1, stemmer=False)",
        deviations=(
            "A reference in another script than the Latin one is compared by its own words, and by characters where "
            "the script has no spaces; the published tokenizer keeps only a-z and 0-9 (letters=ascii).",
            "A reference without a letter or digit is left out instead of counting as 0 (letters=ascii).",
            "Letters and accents that are written apart are joined before they are read (letters=ascii: as they are).",
        ),
        higher_is="knows", range=(0.0, 1.0), ideal="reference", access="text",
        probes=(("generation", SPLITS),), per_split=True,
    )
    Spec: ClassVar[type[plugin.Spec]] = RougeOptions

    def repeated(self, reference: str, text: str) -> float | None:
        return rouge_l(reference, text, self.spec.measure, self.spec.stemmer, self.spec.letters)

    def missing(self, split: Split) -> str:
        return f"no {split} row has a true answer with a letter or digit in it"

    def remark(self, evidence: Evidence, split: Split | None) -> str | None:
        return how_compared(evidence.rows("generation", self.one(split), "prompt"), self.spec.letters)
