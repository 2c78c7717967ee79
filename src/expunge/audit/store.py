"""Rows of observations on disk, each file with the key of what it depends on, so that nothing is asked twice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from expunge.audit.cache import ObservationCache
from expunge.records.base import read_json, read_jsonl, write_json, write_jsonl
from expunge.records.observation import MISSING, Observations, Row
from expunge.records.task import Split


class ObservationStore:
    """One folder of an audit: PROBE.SPLIT.jsonl files and source.json, which holds their keys.

    Args:
        source: what else to write into source.json, for readers.
    """

    def __init__(self, folder: Path, cache: ObservationCache, source: Mapping[str, str]) -> None:
        self._folder, self._cache, self._source = folder, cache, dict(source)
        known = read_json(folder / "source.json") if (folder / "source.json").exists() else {}
        self._keys: dict[str, str] = known.get("rows", {}) if known.get("schema") == SCHEMA else {}

    def get(self, probe: str, split: Split, key: str) -> tuple[Row, ...] | None:
        """The rows filed under the key, here or in the cache; None when the model must be asked."""
        path = self._path(probe, split)
        if path.exists() and self._keys.get(path.name) == key:
            return tuple(read_jsonl(path))
        rows = self._cache.get(key)
        return None if rows is None else self._write(probe, split, key, rows)

    def put(self, probe: str, split: Split, key: str, rows: Sequence[Row]) -> tuple[Row, ...]:
        """File them, here and in the cache; what comes back is what a later reading would see."""
        self._cache.put(key, rows)
        return self._write(probe, split, key, rows)

    def clear(self, wanted: Sequence[tuple[str, Split]]) -> None:
        """Remove files that this audit does not ask for."""
        names = {self._path(*pair).name for pair in wanted}
        for path in self._folder.glob("*.jsonl"):
            if path.name not in names or path.name not in self._keys:
                path.unlink()

    def lacks(self, missing: Mapping[tuple[str, Split], str]) -> None:
        """Write why a probe has no rows, for later readers of this folder."""
        path = self._folder / MISSING
        path.unlink(missing_ok=True)
        if missing:
            write_json(path, {f"{probe}.{split}": why for (probe, split), why in missing.items()})

    def _path(self, probe: str, split: Split) -> Path:
        return self._folder / f"{probe}.{split}.jsonl"

    def _write(self, probe: str, split: Split, key: str, rows: Sequence[Row]) -> tuple[Row, ...]:
        path = self._path(probe, split)
        path.unlink(missing_ok=True)  # rows never stand under the key of others, whenever this is killed
        self._keys[path.name] = key
        write_json(self._folder / "source.json", {"schema": SCHEMA, **self._source, "rows": self._keys})
        write_jsonl(path, rows)
        return tuple(read_jsonl(path))


SCHEMA = "expunge.observations/2"


def read_store(folder: Path) -> Observations | None:
    """All rows of a folder; None when it is not there."""
    return Observations.read(folder) if folder.is_dir() else None


def source_of(folder: Path) -> dict[str, str]:
    """Which model and rows the observations of a folder say they are of; empty where they do not tell."""
    path = folder / "source.json"
    known = read_json(path) if path.is_file() else {}
    return {key: value for key, value in known.items() if isinstance(value, str)} if isinstance(known, dict) else {}
