"""The tables of `experiments/official.py` and `official_scores.py`: what was set against whose code, how far apart."""

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


SCORES = ("benchmark", "our score", "their function", "compared", "cases", "difference")
DEFAULTS = ("benchmark", "our score", "compared", "cases", "difference", "why")


def scores_page(stored: dict[str, Any]) -> str:
    """A line per score that should agree, and a line per default that differs on purpose."""
    same, other = [], []
    for name, benchmark in stored["benchmarks"].items():
        for one in benchmark["rows"]:
            row = {"benchmark": name, "our score": f"`{one['score']}`", "their function": one["theirs"],
                   "compared": one["what"], "cases": one["cases"], "difference": f"{one['difference']:.0e}",
                   "why": one["deviation"]}
            (other if one["deviation"] else same).append(row)
    code = "; ".join(f"{name}: `{of['repository']}`, commit `{of['commit'][:7]}`"
                     for name, of in stored["benchmarks"].items())
    return (f"{code}.\n\n{table(same, SCORES)}\n\nDefaults that differ on purpose, on the rows where they do:\n\n"
            f"{table(other, DEFAULTS)}")
