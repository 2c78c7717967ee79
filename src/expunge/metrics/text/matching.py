"""Whether one text contains another, word by word."""

from __future__ import annotations

import re


def contains(text: str, fact: str) -> bool:
    """Whether `text` contains the words of `fact` in sequence; case and punctuation are ignored."""
    words, sought = (" ".join(re.findall(r"\w+", t.casefold())) for t in (text, fact))
    return bool(sought) and f" {sought} " in f" {words} "
