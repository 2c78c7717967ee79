"""What a guard keeps beside the weights: `guard.json` in the folder of its model.

It is what the guard needs at inference, and part of the model's fingerprint. `Held` says what of it tells of the forget
rows, and in which form.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from expunge.errors import DataError, MissingError
from expunge.records.base import canonical, read_json, write_json

FILE = "guard.json"
SCHEMA = "expunge.guard/1"
Form = Literal["in clear", "vectors", "hashes", "weights"]
TELLS: dict[Form, str] = {
    "in clear": "can be read",
    "vectors": "a guess can be confirmed against them, and much of the wording be recovered",
    "hashes": "a guess can be confirmed against them",
    "weights": "the words they respond to can be read off them",
}


@dataclass(frozen=True)
class Held:
    """Something in a store that comes from the forget rows."""

    what: str
    count: int
    form: Form

    def __str__(self) -> str:
        return f"{self.count} {self.what} {'' if self.form == 'in clear' else 'as '}{self.form} ({TELLS[self.form]})"


@dataclass(frozen=True, eq=False)
class Store:
    """The data of a guard, and what of the forget rows it holds."""

    guard: str
    data: dict[str, Any]
    held: tuple[Held, ...]

    @property
    def digest(self) -> bytes:
        """Of the data, 16 bytes."""
        return hashlib.sha256(canonical([self.guard, self.data]).encode()).digest()[:16]

    def write(self, folder: str | Path) -> None:
        write_json(Path(folder) / FILE, {"schema": SCHEMA, "guard": self.guard,
                                         "held": [asdict(held) for held in self.held], "data": self.data})

    def __deepcopy__(self, memo: dict[int, Any]) -> Store:
        return self  # never changed in place


def read_store(folder: str | Path) -> Store:
    """The store in the folder of a model.

    Raises:
        MissingError: there is none, or `expunge purge` has emptied it.
        DataError: it is not a store.
    """
    place = Path(folder) / FILE
    if not place.is_file():
        raise MissingError(f"{folder} holds a guarded model without its guard.", f"{FILE} is not there.",
                           "Copy the whole folder: without that file the model would answer as if unguarded.")
    found = read_json(place)
    try:
        if found["schema"] != SCHEMA:
            raise KeyError("schema")
        store = Store(found["guard"], found["data"], tuple(Held(**held) for held in found["held"]))
    except (KeyError, TypeError) as error:
        raise DataError(f"{place} is not the store of a guard.", f"It lacks {error}.",
                        "Copy it from the run that made it.") from None
    if found.get("emptied"):
        raise MissingError(f"The guard in {folder} was emptied by `expunge purge --guards`.",
                           "Without what it held the model would answer as if unguarded, so it does not load.",
                           "Make the guard again from the rows, or load the model inside on its own.")
    return store


def stores(root: str | Path) -> list[Path]:
    """Every store in a folder and below it."""
    return sorted(Path(root).rglob(FILE))


def empty(place: Path) -> None:
    """Remove what a store holds; its model then refuses to load, since it would answer as if unguarded."""
    found = read_json(place)
    write_json(place, {"schema": SCHEMA, "guard": found.get("guard", ""), "held": [], "data": {}, "emptied": True})


def said_of(place: Path) -> str:
    """What a store holds of the forget rows, in words; empty for an emptied one."""
    return ", ".join(str(Held(**held)) for held in read_json(place).get("held", ()))
