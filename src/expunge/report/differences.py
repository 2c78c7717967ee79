"""In what runs differ: one column each of the table that lists them side by side; what all share stands above it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from expunge.report.gather import Group, RunView, options


@dataclass(frozen=True)
class RunRow:
    letter: str
    run: str
    """Name of the view."""
    cells: tuple[str, ...]


@dataclass(frozen=True)
class RunTable:
    """Runs side by side. The columns verdict and folder are drawn by the page, the others are text."""

    shared: tuple[tuple[str, str], ...]
    """(column, value) of what is the same in all runs."""
    columns: tuple[str, ...]
    rows: tuple[RunRow, ...]

    @property
    def one_verdict(self) -> bool:
        return any(name == "verdict" for name, _ in self.shared)


def run_table(groups: Sequence[Group], verdicts: Mapping[str, str]) -> RunTable:
    """Every run with what not all runs share.

    Args:
        verdicts: run name -> its verdict in a word.
    """
    views = [view for group in groups for view in group.views]
    names, values = differing(views)
    columns = {
        "verdict": [verdicts[v.name] for v in views], "recipe": [v.recipe or "–" for v in views],
        "model": [v.model for v in views], "task": [v.task for v in views],
        "seed": ["–" if v.seed is None else str(v.seed) for v in views],
        **{name: [values[v.name][i] for v in views] for i, name in enumerate(names)}}
    shared = tuple((name, found[0]) for name, found in columns.items() if len(set(found)) == 1 and len(views) > 1)
    left = [name for name in columns if name != "verdict" and name not in dict(shared)]
    letters = {view.name: group.letter for group in groups for view in group.views}
    return RunTable(shared, tuple(left), tuple(
        RunRow(letters[v.name], v.name, tuple(columns[name][i] for name in left)) for i, v in enumerate(views)))


def differing(views: Sequence[RunView]) -> tuple[list[str], dict[str, list[str]]]:
    """Names of the options in which runs differ, and run name -> its values in that order; `–` where it has none.

    Terms that only some recipes have stand in the recipe already: an option counts where at least two runs have it and
    differ, or where the recipes read the same.
    """
    known = {view.name: options(view.record) for view in views if view.record}
    names = list(dict.fromkeys(name for found in known.values() for name in found))

    def differs(name: str) -> bool:
        values = [repr(found[name]) for found in known.values() if name in found]
        return len(values) > 1 and len(set(values)) > 1

    chosen = [name for name in names if differs(name)]
    return chosen, {view.name: [shown(known.get(view.name, {}).get(name)) for name in chosen] for view in views}


def shown(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}" if value else "0"
    return str(value)
