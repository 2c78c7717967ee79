"""Where rows lie in a run folder; and that they were removed: what, when, and what is left."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from pydantic import Field

from expunge.records.base import Record

PURGED_SCHEMA = "expunge.purged/1"
ROWS = {"task.json": "the rows", "observations": "answers to them", "examples.parquet": "scores of single rows",
        "examples.csv": "scores of single rows", "checkpoint": "a checkpoint of its training",
        "made.json": "rows made from them",
        "server_moments.safetensors": "moments of a federated server: a trace of what was learned from them"}
"""Name -> what it holds of rows, wherever it stands in the folder of a run, a grid or an audit."""
WEIGHTS = ("model", "base")


def with_rows(root: Path) -> Iterator[Path]:
    """Files and folders with rows or answers to them, pages too, outermost ones only; of no folder of weights, and of
    none that is only linked to."""
    for path in sorted(root.iterdir()):
        # A write that was killed leaves `.task.json.abc`.
        if path.name in ROWS or path.suffix == ".html" or path.name.startswith(tuple(f".{name}" for name in ROWS)):
            yield path
        elif path.is_dir() and path.name not in WEIGHTS and not path.is_symlink():
            yield from with_rows(path)


class Purged(Record):
    """RUN/purged.json."""

    schema_: str = Field(PURGED_SCHEMA, alias="schema")
    model_config = Record.model_config | {"populate_by_name": True}
    when: str = Field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    removed: tuple[str, ...] = ()
    """Files and folders of the run, by their names in it."""
    cached: int = 0
    """Files of the observation cache that held its rows."""
    removed_bytes: int = 0
    found: int = 0
    """Files, folders and cached copies that the last purge found; 0 where nothing was left to remove."""
    kept: tuple[str, ...] = ()
    """What is left in the folder, each with what it holds."""
