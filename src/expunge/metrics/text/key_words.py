"""Key words of a prompt: those that carry its answer (UNPACT, arXiv 2509.24675)."""

from __future__ import annotations

from collections.abc import Sequence


def key_words(words: Sequence[str], values: Sequence[float], alpha: float, beta: int) -> list[tuple[str, float]]:
    """(word, C) of the key words, strongest first.

    All words with C > 0 if there are fewer than beta of them, else those with C / max C > alpha.
    """
    positive = sorted(((w, c) for w, c in zip(words, values, strict=True) if c > 0), key=lambda wc: -wc[1])
    return positive if len(positive) < beta else [(w, c) for w, c in positive if c / positive[0][1] > alpha]


def key_indices(values: Sequence[float], alpha: float, beta: int) -> list[int]:
    """Where the key words stand, strongest first."""
    return [int(i) for i, _ in key_words([str(i) for i in range(len(values))], values, alpha, beta)]


def emphasis(words: Sequence[str], wording: str) -> str:
    """The sentence that stresses these words, each named once and bare; empty without any."""
    listed = ", ".join(dict.fromkeys(w.strip(".,;:?!\"'()") for w in words))
    return wording.replace("{words}", listed) if listed else ""
