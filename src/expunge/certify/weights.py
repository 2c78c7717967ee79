"""Which model a folder holds, read from its files alone: no torch, and no more memory than a few MB."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from expunge.errors import DataError, MissingError
from expunge.records.base import Record

WEIGHTS = ".safetensors"
INDEX = ".safetensors.index.json"
NO_PART = ("README.md", ".gitattributes")
"""Files beside a model that do not change what it says."""
GUARD_FILE = "guard.json"
"""The store of a guard. It may hold rows to be forgotten, and a short row could be guessed from its plain digest."""
CHUNK = 1 << 22


class ModelFiles(Record):
    """The model of a folder."""

    weights: str
    """SHA-256 over name, type, shape and bytes of all tensors, however they are divided into files."""
    files: dict[str, str]
    """Name -> SHA-256, of every file that can change what the model says, but the store of a guard."""

    @property
    def adapter(self) -> bool:
        """Whether it is an adapter, which needs its base."""
        return "adapter_config.json" in self.files

    def differences(self, other: ModelFiles) -> list[str]:
        """What is not the same in another model, a sentence each; how tensors are divided into files is no matter."""
        found = ["The weights are others."] * (self.weights != other.weights)
        mine, theirs = self._settings, other._settings
        for name in sorted({*mine, *theirs}):
            if mine.get(name) != theirs.get(name):
                how = "is missing" if name not in theirs else "is not part of it" if name not in mine else "differs"
                found.append(f"The file {name} {how}.")
        return found

    @property
    def _settings(self) -> dict[str, str]:
        return {name: said for name, said in self.files.items()
                if not name.endswith((WEIGHTS, INDEX)) and Path(name).name != GUARD_FILE}


def model_folder(place: str | Path) -> Path:
    """The folder of the weights: a run folder stands for its model.

    Raises:
        MissingError: there is none.
    """
    place = Path(place)
    inner = place / "model"
    found = inner if inner.is_dir() and not (place / "config.json").exists() else place
    if not found.is_dir() or not any((found / name).is_file() for name in ("config.json", "adapter_config.json")):
        raise MissingError(f"There is no model in {place}.", "It holds no config.json and no folder `model` with one.",
                           "Name a run folder, or the folder that save_pretrained wrote.")
    return found


def read_model(place: str | Path) -> ModelFiles:
    """The model of a run folder or a model folder.

    Raises:
        MissingError: there is none.
        DataError: a file of weights cannot be read, or the index of several is not that of their tensors.
    """
    folder = model_folder(place)
    paths = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*"))
             if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts)
             and path.name not in (*NO_PART, GUARD_FILE)}
    tensors = hashlib.sha256()
    found: dict[str, tuple[Path, int, int]] = {}
    for name, path in paths.items():
        if name.endswith(WEIGHTS):
            for key, value in _tensors(path):
                if found.setdefault(key := f"{Path(name).parent.as_posix()}/{key}", value) is not value:
                    raise DataError(f"{folder} holds the tensor {key} twice.", fix="Save the model again.")
    for name, path in paths.items():
        if name.endswith(INDEX):
            _check_index(path, found, Path(name).parent.as_posix())
    for key in sorted(found):
        tensors.update(key.encode() + b"\n")
        for chunk in _chunks(*found[key]):
            tensors.update(chunk)
    return ModelFiles(weights=tensors.hexdigest(), files={n: _file_digest(p) for n, p in paths.items()})


def _check_index(index: Path, found: dict[str, tuple[Path, int, int]], folder: str) -> None:
    """Raises DataError where an index does not name exactly the tensors beside it: what it leaves out is not loaded."""
    try:
        named = dict(json.loads(index.read_bytes())["weight_map"])
    except (ValueError, KeyError, TypeError, RecursionError):
        named = {}
    there: dict[str, str] = {}
    for key, (path, _, _) in found.items():
        if path.parent == index.parent:
            there[key.removeprefix(f"{folder}/").rsplit(":", 2)[0]] = path.name
    if named != there:
        others = sorted(key for key in {*named, *there} if named.get(key) != there.get(key))
        raise DataError(f"{index} is not the index of the tensors beside it.",
                        f"They differ in {', '.join(others[:3])}.", "Save the model again.")


def _tensors(path: Path) -> Iterator[tuple[str, tuple[Path, int, int]]]:
    """`name:type:shape` of each tensor of a safetensors file, and where its bytes are."""
    try:
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            header: dict[str, Any] = json.loads(file.read(min(size, 100_000_000)))
        header.pop("__metadata__", None)
        for name, about in header.items():
            start, end = about["data_offsets"]
            if not 0 <= start <= end <= path.stat().st_size - 8 - size:
                raise ValueError(name)
            yield f"{name}:{about['dtype']}:{list(map(int, about['shape']))}", (path, 8 + size + start, end - start)
    except (ValueError, KeyError, TypeError, AttributeError):
        raise DataError(f"{path} is no readable file of weights.", "It is damaged, or its end is missing.",
                        "Restore it from a copy, or make the run again.") from None


def _chunks(path: Path, start: int, length: int) -> Iterator[bytes]:
    with path.open("rb") as file:
        file.seek(start)
        while length > 0 and (chunk := file.read(min(CHUNK, length))):
            length -= len(chunk)
            yield chunk


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
