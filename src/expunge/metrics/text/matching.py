"""Whether one text says another."""

from __future__ import annotations

import re


def contains(text: str, fact: str) -> bool:
    """Whether the words of `fact` stand in `text` one after the other, whatever the case and punctuation."""
    said, sought = (" ".join(re.findall(r"\w+", t.casefold())) for t in (text, fact))
    return bool(sought) and f" {sought} " in f" {said} "
