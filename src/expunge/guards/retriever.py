"""Retrieval of a stored item by two rankings, counted words and vectors, joined into one."""

from __future__ import annotations

from collections import defaultdict

from expunge.guards.bm25 import Backend, Bm25
from expunge.guards.detector import Finding, Nearest
from expunge.guards.text_vectors import pieces

SMOOTH = 60
"""Constant of the fusion of two rankings (Cormack et al. 2009)."""


class Retriever:
    """Two rankings of the stored items, joined; the vectors decide whether the best one is near enough."""

    def __init__(self, nearest: Nearest, wordings: list[list[str]], backend: Backend) -> None:
        self.nearest, self._wordings, self._backend = nearest, wordings, backend
        self._owner = [item for item, texts in enumerate(wordings) for _ in texts]
        self._bm25 = Bm25([text for texts in wordings for text in texts], backend)

    def __call__(self, text: str) -> Finding:
        if not self._owner:
            return Finding(False, 0.0)
        best = [(-1.0, -1)]
        for piece in pieces(text):
            cosine = dict[int, float]()
            for item, value in zip(self.nearest.item_N, self.nearest.vectors([piece])[0] @ self.nearest.items_ND.T,
                                   strict=True):
                cosine[item] = max(cosine.get(item, -1.0), float(value))
            words = defaultdict[int, float](float)
            for item, value in zip(self._owner, self._bm25.scores(" ".join(piece.split()[:25])), strict=True):
                words[item] = max(words[item], value)
            joined = fused([cosine, words])
            chosen = max(joined, key=lambda item: (joined[item], -item))
            best.append((cosine[chosen], chosen))
        score, item = max(best)
        return Finding(score >= self.nearest.threshold, score, item)


def fused(scores: list[dict[int, float]]) -> dict[int, float]:
    """Reciprocal rank fusion: sum over rankings of 1 / (60 + rank); equal scores share the better rank."""
    joined = defaultdict[int, float](float)
    for ranking in scores:
        order = sorted(ranking.values(), reverse=True)
        for item, value in ranking.items():
            joined[item] += 1 / (SMOOTH + 1 + order.index(value))
    return dict(joined)
