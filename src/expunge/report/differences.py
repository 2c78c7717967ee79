"""In which options runs differ: one column each of the table that lists them side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from expunge.report.gather import RunView, options


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
    return chosen, {view.name: [_shown(known.get(view.name, {}).get(name)) for name in chosen] for view in views}


def _shown(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}" if value else "0"
    return str(value)
