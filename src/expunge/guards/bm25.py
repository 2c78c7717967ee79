"""BM25: how well the words of a query fit each of some texts (Robertson; the variant of Lucene)."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal

from expunge.errors import MissingError
from expunge.guards.text_vectors import words

K1, B = 1.5, 0.75
Backend = Literal["own", "bm25s"]


class Bm25:
    """Scores of texts for a query.

    Args:
        backend: our own counting, or the package bm25s, which is faster for many texts.
    """

    def __init__(self, texts: Sequence[str], backend: Backend = "own") -> None:
        self._said = [words(text) for text in texts]
        self._index: Any = None
        if backend == "bm25s" and texts:
            module = _bm25s()
            self._index = module.BM25(method="lucene", k1=K1, b=B)
            self._index.index(self._said, show_progress=False)
        self._counts = [Counter(said) for said in self._said]
        self._seen = Counter(word for counts in self._counts for word in counts)
        self._mean = sum(map(len, self._said)) / max(len(self._said), 1) or 1.0

    def scores(self, query: str) -> list[float]:
        """One per text; 0 where no word is shared."""
        asked = words(query)
        if self._index is not None:
            known = [word for word in asked if word in self._seen]
            return [float(s) for s in self._index.get_scores(known)] if known else [0.0] * len(self._said)
        return [sum(self._part(word, counts, len(said)) for word in asked)
                for counts, said in zip(self._counts, self._said, strict=True)]

    def _part(self, word: str, counts: Counter[str], length: int) -> float:
        count, seen, total = counts[word], self._seen[word], len(self._said)
        if not count:
            return 0.0
        rarity = math.log(1 + (total - seen + 0.5) / (seen + 0.5))
        return rarity * count / (count + K1 * (1 - B + B * length / self._mean))


def _bm25s() -> Any:
    try:
        import bm25s
    except ImportError:
        raise MissingError("bm25s is not installed.", "The option backend=bm25s needs it.",
                           "pip install 'expunge[retrieval]', or leave the option out.") from None
    return bm25s
