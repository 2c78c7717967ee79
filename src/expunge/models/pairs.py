"""Pairs: a folder with an original and the models retrained without the rows to forget, called by one name."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from expunge.data.published import DATA_VARIABLE
from expunge.errors import MissingError

UNSEEN = {"tofu_tiny": "tofu:forget10"}
"""Name of a pair -> the task whose forget rows its retrained models were trained without."""


@dataclass(frozen=True)
class Pair:
    """NAME/original and NAME/retrained*, of which the first is the gold standard."""

    original: Path
    retrained: tuple[Path, ...]


def find_pair(name: str, data_dir: Path | None = None) -> Pair | None:
    """The pair in the folder of that name: here, or in the data folder, or in `models` there. None where there is none.

    Args:
        name: a folder, or the name of one.
        data_dir: the data folder; that of EXPUNGE_DATA when left out.

    Raises:
        MissingError: a pair that has a name of its own is in none of these places.
    """
    named = data_dir or (Path(os.environ[DATA_VARIABLE]) if os.environ.get(DATA_VARIABLE) else None)
    for folder in (Path(name), *((named / name, named / "models" / name) if named else ())):
        retrained = tuple(sorted(p for p in folder.glob("retrained*") if _is_model(p)))
        if _is_model(folder / "original") and retrained:
            return Pair(folder / "original", retrained)
    if name in UNSEEN:
        raise MissingError(f"The models {name} are not here.",
                           f"No folder {name} with original and retrained was found in {named or 'this folder'}, nor "
                           "in its folder models.",
                           f"Name the folder that holds models/{name} by --data-dir or the variable {DATA_VARIABLE}.")
    return None


def _is_model(place: Path) -> bool:
    return any((at / "config.json").is_file() for at in (place, place / "model"))
