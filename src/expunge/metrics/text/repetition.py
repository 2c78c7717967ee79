"""How much of a text repeats itself: the sign of a model that loops. Pure text, usable from any folder."""

from __future__ import annotations

from expunge.metrics.text.units import units

SPAN = 4
"""Units (words, or characters of scripts without spaces) that are compared at once."""
FEWEST = 12
"""Units below which a text is too short to loop."""


def repetition(text: str) -> float:
    """Share of the runs of `SPAN` units that stood in the text before: 0 = none, near 1 = it loops (rep-4, Welleck et
    al., arXiv 1908.04319). 0 for a short text."""
    found = units(text)
    runs = [tuple(found[i:i + SPAN]) for i in range(len(found) - SPAN + 1)]
    return 0.0 if len(found) < FEWEST else 1 - len(set(runs)) / len(runs)
