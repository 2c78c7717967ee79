"""Overlap of two texts in words (ROUGE). Pure text, usable from any folder."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from rouge_score.rouge_scorer import RougeScorer

Unit = Literal["rouge1", "rougeL"]
"""Words in any order, or the longest common subsequence of words."""
Share = Literal["precision", "recall", "f1"]
"""Common words by the length of the text, of the reference, or the harmonic mean of both."""


@lru_cache(maxsize=8)
def _scorer(unit: Unit, stemmer: bool) -> RougeScorer:
    from rouge_score.rouge_scorer import RougeScorer  # slow to import, so only when needed

    scorer = RougeScorer([unit], use_stemmer=stemmer)
    if stemmer:  # texts of one data set share most words
        porter = scorer._tokenizer._stemmer
        porter.stem = lru_cache(maxsize=1 << 16)(porter.stem)
    return scorer


@lru_cache(maxsize=65536)
def rouge(reference: str, text: str, unit: Unit = "rougeL", share: Share = "recall",
          stemmer: bool = True) -> float | None:
    """ROUGE (Lin 2004) of `text` against `reference`, in 0..1.

    None when the reference has no word: the ROUGE tokenizer keeps only a-z and 0-9.
    """
    scorer = _scorer(unit, stemmer)
    if not scorer._tokenizer.tokenize(reference):
        return None
    score = scorer.score(reference, text)[unit]
    return float({"precision": score.precision, "recall": score.recall, "f1": score.fmeasure}[share])
