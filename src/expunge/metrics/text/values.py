"""Whether a text says a value, such as a telephone number or a key, however it is set. Usable from any folder."""

from __future__ import annotations

from functools import lru_cache

import regex

from expunge.metrics.text.matching import contains
from expunge.metrics.text.units import normalised

LONG = 7
"""Letters and digits from which a value is recognised without its spaces, hyphens and dots."""
_BETWEEN = regex.compile(r"[\W_]+")


def says_value(text: str, value: str) -> bool:
    """Whether `text` has the letters and digits of `value` in sequence, with nothing but other characters between them.

    Case and composition are ignored; a value of fewer than seven must stand there word for word. What begins or ends
    within a longer run of letters or digits does not count.
    """
    pattern = _pattern(value)
    return contains(text, value) if pattern is None else pattern.search(normalised(text)) is not None


@lru_cache(maxsize=65536)
def _pattern(value: str) -> regex.Pattern[str] | None:
    plain = _BETWEEN.sub("", normalised(value))
    if len(plain) < LONG:
        return None
    return regex.compile(r"(?<![^\W_])" + r"[\W_]*".join(map(regex.escape, plain)) + r"(?![^\W_])")
