"""Overlap of two texts in words (ROUGE), or in characters where a script has no spaces. Usable from any folder."""

from __future__ import annotations

import unicodedata
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

import regex

from expunge.metrics.text.units import DENSE, units

if TYPE_CHECKING:
    from rouge_score.rouge_scorer import RougeScorer

Unit = Literal["rouge1", "rougeL"]
"""Words in any order, or the longest common subsequence of words."""
Share = Literal["precision", "recall", "f1"]
"""Common words by the length of the text, of the reference, or the harmonic mean of both."""
Letters = Literal["all", "ascii"]
"""Words of any script, or only what the published tokenizer keeps."""
OTHER_SCRIPT = 0.25
"""Share of letters outside the Latin script from which a text is no longer read by the published tokenizer."""


class UnitTokenizer:
    """Tokens of rouge_score for what is in Latin letters and digits, units for all else."""

    def __init__(self, latin: object) -> None:
        self._latin = latin

    def tokenize(self, text: str) -> list[str]:
        found: list[str] = []
        for unit in units(text):
            found += self._latin.tokenize(unit) if unit.isascii() else [unit]  # type: ignore[attr-defined]
        return found


@lru_cache(maxsize=16)
def _scorer(unit: Unit, stemmer: bool, by_units: bool) -> RougeScorer:
    from rouge_score.rouge_scorer import RougeScorer  # slow to import, so only when needed

    scorer = RougeScorer([unit], use_stemmer=stemmer)
    if stemmer:  # texts of one data set share most words
        porter = scorer._tokenizer._stemmer
        porter.stem = lru_cache(maxsize=1 << 16)(porter.stem)
    if by_units:
        scorer._tokenizer = UnitTokenizer(scorer._tokenizer)
    return scorer


@lru_cache(maxsize=65536)
def _composed(text: str) -> str:
    return unicodedata.normalize("NFC", text)


@lru_cache(maxsize=65536)
def read_by_units(reference: str) -> bool:
    """Whether the published ROUGE tokenizer, which keeps only a-z and 0-9, would drop what matters of a text.

    So it is with letters of a script without spaces, with a quarter or more of the letters outside the Latin script,
    and with nothing but accented letters.
    """
    if reference.isascii():
        return False
    if DENSE.search(reference):
        return True
    letters = regex.findall(r"\p{L}", reference)
    other = sum(regex.match(r"\p{Latin}", letter) is None for letter in letters)
    if letters and other >= OTHER_SCRIPT * len(letters):
        return True
    return regex.search(r"[A-Za-z0-9]", _composed(reference)) is None


@lru_cache(maxsize=65536)
def rouge(reference: str, text: str, unit: Unit = "rougeL", share: Share = "recall",
          stemmer: bool = True, letters: Letters = "all") -> float | None:
    """ROUGE (Lin 2004) of `text` against `reference`, in 0..1.

    English text is read by the published tokenizer, which keeps only a-z and 0-9. A reference that it would drop
    (`read_by_units`) is compared by words of any script, and by characters in scripts without spaces.
    None when the reference has no letter and no digit. With `letters="ascii"` the published package reads every text,
    and such a reference gives 0.
    """
    if letters == "ascii":
        return _share(_scorer(unit, stemmer, False), reference, text, unit, share)
    scorer = _scorer(unit, stemmer, read_by_units(reference))
    reference, text = _composed(reference), _composed(text)
    if not scorer._tokenizer.tokenize(reference):
        return None
    return _share(scorer, reference, text, unit, share)


def _share(scorer: RougeScorer, reference: str, text: str, unit: Unit, share: Share) -> float:
    score = scorer.score(reference, text)[unit]
    return float({"precision": score.precision, "recall": score.recall, "f1": score.fmeasure}[share])
