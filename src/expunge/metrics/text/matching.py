"""Whether one text contains another: word by word, and by characters in scripts without spaces."""

from __future__ import annotations

import regex

from expunge.metrics.text.units import normalised, units

_HANGUL = regex.compile(r"\p{Hangul}{2,}")


def contains(text: str, fact: str, reference: str = "") -> bool:
    """Whether `text` contains the units of `fact` in sequence; case, punctuation and composition are ignored.

    A Korean word of two syllables or more may be followed by a particle. Where `reference`, the true answer, itself
    has the fact only inside a word (an inflected or compound one), so may `text`.
    """
    sought = units(fact)
    if not sought:
        return False
    if _in_sequence(units(text), sought):
        return True
    bare = normalised(fact).strip()
    inflected = bare in normalised(reference) and not _in_sequence(units(reference), sought)
    return inflected and bare in normalised(text)


def _in_sequence(text: tuple[str, ...], sought: tuple[str, ...]) -> bool:
    within, pattern = f" {' '.join(text)} ", f" {' '.join(sought)}"
    return pattern + " " in within or (_HANGUL.fullmatch(sought[-1]) is not None and pattern in within)
