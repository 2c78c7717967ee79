"""Files that are written once: never in place of another, and in full or not at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def place_new(made: Path, path: Path) -> None:
    """Give a finished file its name. Raises FileExistsError: it is never given in place of another."""
    try:
        os.link(made, path)  # in one step, unlike looking and renaming
    except FileExistsError:
        raise
    except OSError:  # a disk without links
        if path.exists():
            raise FileExistsError(path) from None
        os.rename(made, path)


def write_beside(path: Path, data: bytes, mode: int = 0o644) -> Path:
    """Write a file with another name in the same folder, for `place_new`; it is on disk when this returns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, made = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(made, mode)
    except BaseException:
        Path(made).unlink(missing_ok=True)
        raise
    return Path(made)


def write_new(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Write a new file. Raises FileExistsError where there is one."""
    made = write_beside(path, data, mode)
    try:
        place_new(made, path)
    finally:
        made.unlink(missing_ok=True)
