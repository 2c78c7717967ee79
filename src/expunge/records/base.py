"""The frozen base of every record, its JSON codec and atomic writing."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from expunge.errors import DataError, MissingError
from expunge.records.overview import Overview


class Record(BaseModel):
    """Frozen, typed, with one JSON form. Unknown fields are refused, so typos do not pass."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    FILE: ClassVar[str] = ""
    """What its file is called in the folder of a run, an audit ...; empty where it has no file of its own."""

    def overview(self) -> Overview | None:
        """What it shows of itself on one screen; None: all its fields."""
        return None

    def __repr__(self) -> str:
        found = self.overview()
        return super().__repr__() if found is None else found.text()

    def __str__(self) -> str:
        return repr(self)

    def _repr_html_(self) -> str | None:
        """What a notebook shows."""
        found = self.overview()
        return None if found is None else found.html()

    def to_json(self) -> dict[str, Any]:
        return self.model_dump(mode="json", by_alias=True)

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """Load from a JSON file, or from the folder that holds it; a file that does not fit says which field is wrong.
        """
        path = Path(path)
        path = path / cls.FILE if cls.FILE and path.is_dir() else path
        data = read_json(path)
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "the top level"
            raise DataError(
                f"{path} is not a readable {cls.__name__}.",
                f"At {where}: {first['msg']}.",
                "It may come from another version of expunge, or have been edited by hand.",
            ) from None

    def write(self, path: Path) -> None:
        write_json(path, self.to_json())


def cache_root() -> Path:
    """Where what can be made again is kept between runs: `EXPUNGE_CACHE`, or ~/.cache/expunge."""
    return Path(os.environ.get("EXPUNGE_CACHE") or Path.home() / ".cache" / "expunge")


def canonical(data: Any) -> str:
    """One string per value: sorted keys, no spaces. What fingerprints are taken of."""
    return json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def fingerprint(data: Any) -> str:
    """First 16 hex digits of the SHA-256 of the canonical JSON."""
    return hashlib.sha256(canonical(data).encode()).hexdigest()[:16]


def write_text(path: Path, text: str) -> None:
    """Write beside and rename, so a kill leaves either the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def write_json(path: Path, data: Any) -> None:
    write_text(path, json.dumps(data, indent=1, ensure_ascii=False) + "\n")


def write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise MissingError(f"{path} does not exist.") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is not valid JSON.", str(error)) from None


def read_jsonl(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the objects of a JSON-lines file; a broken line is named by number."""
    try:
        lines = path.read_text(encoding="utf-8").split("\n")  # splitlines() would cut at U+2028
    except FileNotFoundError:
        raise MissingError(f"{path} does not exist.") from None
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                yield json.loads(line)
            except json.JSONDecodeError as error:
                raise DataError(f"{path}, line {number}: not valid JSON.", str(error)) from None
