"""Tables for the README, made from stored result files so that they cannot drift from them.

A result is `{"recipe": str, "seed": int, "scores": {name: value}, ...}`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import Any, Literal

from expunge.errors import DataError, UsageError
from expunge.report.gather import finite
from expunge.report.text import number


@dataclass(frozen=True)
class Spread:
    """A value over seeds: its centre (median or mean), its range and how many seeds had it."""

    centre: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        if self.n == 1:
            return number(self.centre)
        return f"{number(self.centre)} ({number(self.low)} to {number(self.high)})"


def table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str] | Mapping[str, str]) -> str:
    """A Markdown table. `columns` are keys of the rows, or key -> heading; numbers align right."""
    headings = dict(columns) if isinstance(columns, Mapping) else {c: c for c in columns}
    numeric = {
        key for key in headings
        if rows and all(isinstance(row.get(key), int | float | Spread | None) for row in rows)
    }
    lines = ["| " + " | ".join(_cell(h) for h in headings.values()) + " |",
             "|" + "|".join("---:" if key in numeric else "---" for key in headings) + "|"]
    lines += ["| " + " | ".join(_cell(row.get(key)) for key in headings) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return number(value)
    shown = "–" if value is None else str(value)
    return shown.replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ")


def summarise(
    results: Sequence[Mapping[str, Any]], by: str, columns: Sequence[str], *,
    centre: Literal["median", "mean"] = "median",
) -> list[dict[str, Any]]:
    """One row per value of `by`, in first-seen order: `{by: value, "seeds": n, column: Spread | None}`.

    Raises DataError when a result lacks `by`, or when one seed appears twice under one value, since
    it would then weigh twice.
    """
    grouped: dict[Any, list[Mapping[str, Any]]] = {}
    for result in results:
        if by not in result:
            raise DataError(f"A result has no {by!r}.", f"It has: {', '.join(sorted(result))}.",
                            "Group by a field that every result carries.")
        grouped.setdefault(result[by], []).append(result)
    middle = median if centre == "median" else fmean
    rows = []
    for value, members in grouped.items():
        seeds = [m.get("seed") for m in members if m.get("seed") is not None]
        if len(set(seeds)) != len(seeds):
            raise DataError(f"{by} = {value!r} holds the same seed twice.", f"Seeds: {seeds}.",
                            "Leave one out, or split the results by task or model first.")
        row: dict[str, Any] = {by: value, "seeds": len(members)}
        for column in columns:
            known = finite(m.get("scores", {}).get(column) for m in members)
            row[column] = Spread(middle(known), min(known), max(known), len(known)) if known else None
        rows.append(row)
    return rows


def replace_between(text: str, marker: str, new: str) -> str:
    """Put `new` between `<!-- generated:MARKER -->` and `<!-- /generated:MARKER -->`.

    Raises UsageError unless the text has exactly one such pair, in this order.
    """
    opening, closing = f"<!-- generated:{marker} -->", f"<!-- /generated:{marker} -->"
    start, end = text.find(opening), text.find(closing)
    if text.count(opening) != 1 or text.count(closing) != 1 or end < start:
        raise UsageError(
            f"The text has no single place for {marker!r}.",
            f"Found {text.count(opening)} opening and {text.count(closing)} closing marks.",
            f"Put one `{opening}` and, below it, one `{closing}` where the text should go.",
        )
    return text[: start + len(opening)] + "\n" + new.strip("\n") + "\n" + text[end:]
