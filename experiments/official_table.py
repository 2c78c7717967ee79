"""The table of `experiments/official.py`: what was set against whose code, and how far apart the two are."""

from __future__ import annotations

from typing import Any

from expunge.report.leaderboard import table

COLUMNS = ("method", "their code", "commit", "compared", "loss", "gradient")


def page(stored: dict[str, Any]) -> str:
    """One line per method, with its largest differences."""
    rows = [{"method": f"`{name}`", "their code": f"`{row['repository']}`", "commit": f"`{row['commit'][:7]}`",
             "compared": "; ".join(one["what"] for one in row["differences"]),
             "loss": largest(row, "loss"), "gradient": largest(row, "gradient")}
            for name, row in stored["methods"].items()]
    return f"{len(rows)} methods.\n\n{table(rows, COLUMNS)}"


def largest(row: dict[str, Any], part: str) -> str:
    """The largest difference of a method in one significant digit; - where none was taken."""
    found = [one[part] for one in row["differences"] if one[part] is not None]
    return f"{max(found):.0e}" if found else "-"
