"""That rows were removed from a run folder: what, when, and what is left."""

from __future__ import annotations

from datetime import UTC, datetime

from pydantic import Field

from expunge.records.base import Record

PURGED_SCHEMA = "expunge.purged/1"


class Purged(Record):
    """RUN/purged.json."""

    schema_: str = Field(PURGED_SCHEMA, alias="schema")
    model_config = Record.model_config | {"populate_by_name": True}
    when: str = Field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    removed: tuple[str, ...]
    """Files and folders of the run, by their names in it."""
    cached: int
    """Files of the observation cache that held its rows."""
    removed_bytes: int
    kept: tuple[str, ...]
    """What is left in the folder, each with what it holds."""
