"""What a record shows of itself on one screen: as text in a shell, as a table in a notebook."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

LINES, WIDTH = 24, 110
"""Of a screen."""


def number(value: float | None) -> str:
    """Three decimals; scientific where three decimals would hide the value."""
    if value is None:
        return "–"
    if value != value or value in (float("inf"), float("-inf")):
        return "not finite"
    if value and (abs(value) < 0.001 or abs(value) >= 100_000):
        return f"{value:.1e}".replace("-", "−")
    return (f"{value:.1f}" if abs(value) >= 100 else f"{value:.3f}").replace("-", "−")


@dataclass(frozen=True)
class Overview:
    """A title, facts, and a table."""

    title: str
    facts: Sequence[tuple[str, Any]] = ()
    """(label, value); empty values are left out."""
    columns: Sequence[str] = ()
    rows: Sequence[Sequence[Any]] = ()

    def text(self) -> str:
        """At most `LINES` lines of at most `WIDTH` characters."""
        lines = [_cut(self.title, WIDTH)]
        lines += [_cut(f"  {label}: {shown(value)}", WIDTH) for label, value in self._known()]
        lines = lines[:LINES - 3]
        kept, left_out = self._kept(LINES - len(lines) - 2)
        if kept:
            cells = [[str(c) for c in self.columns], *([shown(v) for v in row] for row in kept)]
            wide = [min(max(map(len, column)), 44) for column in zip(*cells, strict=True)]
            words = [any(isinstance(v, str) for v in column) for column in zip(*kept, strict=True)]
            lines += [_cut("  " + "  ".join(_cut(c, w).ljust(w) if left else _cut(c, w).rjust(w)
                                            for c, w, left in zip(row, wide, words, strict=True)).rstrip(), WIDTH)
                      for row in cells]
        return "\n".join([*lines, *left_out])

    def html(self) -> str:
        """The same, as HTML without scripts or styles of its own."""
        facts = "".join(f"<tr><th style='text-align:left'>{escape(label)}</th><td style='text-align:left'>"
                        f"{escape(shown(value))}</td></tr>"
                        for label, value in self._known())
        kept, left_out = self._kept(LINES)
        head = "".join(f"<th>{escape(str(c))}</th>" for c in self.columns)
        body = "".join("<tr>" + "".join(f"<td>{escape(shown(v))}</td>" for v in row) + "</tr>" for row in kept)
        table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>" if kept else ""
        more = "".join(f"<p>{escape(line.strip())}</p>" for line in left_out)
        return (f"<div><p><b>{escape(self.title)}</b></p>" + (f"<table>{facts}</table>" if facts else "")
                + table + more + "</div>")

    def _known(self) -> list[tuple[str, Any]]:
        return [(label, value) for label, value in self.facts if value not in (None, "", ())]

    def _kept(self, most: int) -> tuple[Sequence[Sequence[Any]], list[str]]:
        """As many rows as there is room for, and a line that says how many are left out."""
        if len(self.rows) <= most:
            return self.rows, []
        return self.rows[:most - 1], [f"  ... {len(self.rows) - most + 1} more"]


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[:width - 4].rstrip() + " ..."


def shown(value: Any) -> str:
    """A number with three decimals, a pair as an interval, a dash for nothing."""
    if value is None:
        return "-"
    if isinstance(value, bool | str):
        return " ".join(str(value).split())
    if isinstance(value, float):
        return f"{value:.1e}" if value and abs(value) < 1e-3 else f"{value:.3f}"
    if isinstance(value, tuple | list):
        return ", ".join(map(shown, value))
    return str(value)
