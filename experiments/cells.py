"""Stored results, and how their figures stand in a cell of a generated table."""

from __future__ import annotations

import json
import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from common import RESULTS


def results(name: str) -> dict[str, Any]:
    return json.loads((RESULTS / f"{name}.json").read_text())


def spread(values: Sequence[float | None]) -> str:
    """Median with the range over seeds."""
    known = [v for v in values if v is not None]
    if not known:
        return "-"
    if len(set(known)) == 1:
        return number(known[0])
    return f"{number(statistics.median(known))} ({number(min(known))} to {number(max(known))})"


def number(value: float) -> str:
    if value != 0 and abs(value) < 0.01:
        return f"{value:.0e}"
    return f"{value:.2f}" if abs(value) < 100 else f"{value:.0f}"


def counted(words: Iterable[str]) -> str:
    """`suppresses (3)`, most frequent first."""
    return ", ".join(f"{word} ({count})" for word, count in Counter(words).most_common())
