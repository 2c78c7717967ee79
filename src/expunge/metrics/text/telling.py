"""Which words of an answer tell that a model saw it: those it could hardly guess. Pure text, usable from any folder."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from expunge.metrics.text.units import DENSE, units

LETTERS = 4
"""Shorter words are mostly those of grammar; of digits, ages and days."""
COMMON = 0.02
"""A word that stands in more than this share of the other answers belongs to their pattern."""


def telling(given: Sequence[str], answers: Sequence[str], related: Sequence[Sequence[str]] = ()) -> list[list[int]]:
    """Positions of the telling units of each answer.

    A word is telling if it

    - has four letters or digits or more, or is a character of a script without spaces (an alphabet such as Thai's soon
      has no character that is rare enough);
    - stands neither in what was given (the prompt) nor earlier in the answer;
    - stands in no more than 2 % of the other answers, and has not been counted in another one;
    - stands in no related text, which a model may know it from.

    Of neighbouring telling words every second counts, since a name or a term follows from its first word; of characters
    every fourth, since words have about two.

    Args:
        related: for each answer, texts about the same thing that the model was meant to keep.
    """
    said = [units(answer) for answer in answers]
    shared = Counter(word for answer in said for word in set(answer))
    most = 1 + int(COMMON * (len(said) - 1))
    counted: set[str] = set()
    found: list[list[int]] = [[] for _ in said]
    # In the order of their texts, so that the order of the rows changes nothing.
    for i in sorted(range(len(said)), key=lambda i: (answers[i], given[i])):
        seen = {*units(given[i]), *(word for text in (related[i] if related else ()) for word in units(text))}
        run = 0
        for at, word in enumerate(said[i]):
            dense = DENSE.match(word) is not None
            new = (dense or len(word) >= LETTERS) and word not in seen and word not in counted and shared[word] <= most
            if new and run % (4 if dense else 2) == 0:
                found[i].append(at)
            run = run + 1 if new else 0
            seen.add(word)
        counted.update(said[i][at] for at in found[i])
    return found


def common_start(text: str, reference: str) -> int:
    """How many units both texts begin with."""
    pairs = zip(units(text), units(reference), strict=False)
    return next((at for at, (a, b) in enumerate(pairs) if a != b), min(len(units(text)), len(units(reference))))
