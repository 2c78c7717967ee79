"""In which options runs differ: one column each of the table that lists them side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from expunge.records.run import RunRecord
from expunge.report.gather import RunView

OWN_COLUMN = ("seed", "template")
"""What has a column of its own, or would fill the screen."""


def options(record: RunRecord | None) -> dict[str, Any]:
    """Every option of a run: `npo.beta` of a term (`2.npo.beta` in the second stage), `epochs` of the command."""
    if record is None:
        return {}
    several = len(record.recipe_full) > 1
    found: dict[str, Any] = {}
    for stage, terms in record.recipe_full.items():
        where = f"{int(stage) + 1}." if several and stage.isdigit() else ""
        for term, given in terms.items() if isinstance(terms, dict) else ():
            if isinstance(given, dict):
                found |= {f"{where}{term}.{name}": value for name, value in given.items()}
    return found | {name: value for name, value in record.settings.to_json().items() if name not in OWN_COLUMN}


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
