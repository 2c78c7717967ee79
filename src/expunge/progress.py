"""Progress callbacks for long work."""

from __future__ import annotations

from collections.abc import Callable

Announce = Callable[[str, int], Callable[..., None]]
"""(title, units of work) -> function to call with the number of units done."""


def silent(title: str, total: int) -> Callable[..., None]:
    """An `Announce` that reports nothing."""
    return lambda *words: None
