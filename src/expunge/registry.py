"""Which plug-ins exist. Adding one means adding one file; nothing is listed by hand.

Our own are the files of the folders that `plugin.KINDS` names. Others come from entry points in the group
`expunge.plugins` (`name = "package.module:Class"`), or from single files (`add_file`, `--plugin FILE`). Names and
summaries are read from the source with `ast`, so listing them imports neither torch nor the plug-in.

A file that the user names must be right. An installed plug-in that is broken is left out, and `broken` tells of it: it
may belong to a package that the user never heard of, and must not stop a command that does not need it.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from importlib import metadata
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

from expunge.errors import ExpungeError, MissingError, UsageError, did_you_mean, first_line
from expunge.needs import ModelNeed, serves
from expunge.plugin import KINDS, Kind, Plugin
from expunge.terms import parse_sum

ENTRY_POINTS = "expunge.plugins"


@dataclass(frozen=True)
class Entry:
    """Where a plug-in lives, and its one line; known without importing it."""

    name: str
    kind: Kind
    summary: str
    module: str
    attribute: str
    own_needs: frozenset[ModelNeed] = frozenset()
    """What its own card says that the model must offer; see `model_needs`."""
    parts: tuple[str, ...] = ()
    """Other plug-ins that it stands on: probes of a metric, terms of a preset."""
    file: Path | None = None
    """Where it was read from, if it is not part of expunge."""
    said: tuple[tuple[str, str], ...] = ()
    """What its card says of its place in the taxonomy, axis by axis; see `expunge.taxonomy`."""

    def load(self) -> type[Plugin]:
        """The class. Raises UsageError where the module of somebody else's plug-in does not import."""
        if self.file is None:
            loaded = getattr(importlib.import_module(self.module), self.attribute)
        else:
            try:
                loaded = getattr(importlib.import_module(self.module), self.attribute)
            except ExpungeError:
                raise
            except Exception as error:  # whatever the code of others raises
                raise UsageError(f"The plug-in {self.name!r} ({self.file.name}) cannot be imported.", first_line(error),
                                 "Mend or uninstall it; `expunge doctor` looks at every plug-in.") from None
        if not (isinstance(loaded, type) and issubclass(loaded, Plugin)):
            raise UsageError(f"{self.module}:{self.attribute} is not an expunge plug-in.")
        return loaded


_FILES: list[Path] = []
"""Files of the user's that were named, in order."""


def entries() -> dict[str, Entry]:
    """All plug-ins by name. Names are unique across kinds, so that a recipe is a sum in any order."""
    return _found()[0]


def broken() -> dict[str, str]:
    """Name of an installed plug-in that cannot be used -> why, as far as that is known without importing it."""
    return _found()[1]


@cache
def _found() -> tuple[dict[str, Entry], dict[str, str]]:
    found: dict[str, Entry] = {}
    wrong: dict[str, str] = {}
    for entry in _ours():
        _add(found, entry)
    for path in _FILES:
        for entry in _of_file(path):
            _add(found, entry)
    for point in metadata.entry_points(group=ENTRY_POINTS):
        try:
            _add(found, _of_point(point))
        except ExpungeError as problem:
            wrong[point.name] = problem.what
        except Exception as error:  # its package fails while it is looked for, or its source cannot be read
            wrong[point.name] = f"{point.value} cannot be read: {first_line(error)}"
    return found, wrong


def _add(found: dict[str, Entry], entry: Entry) -> None:
    if entry.name in found:
        raise UsageError(f"Two plug-ins are called {entry.name!r}: {found[entry.name].module} and {entry.module}.",
                         "Names are unique across kinds, so that a recipe is a sum in any order.",
                         "Give one of them another name in its card.")
    found[entry.name] = entry


def add_file(path: str | Path) -> list[Entry]:
    """Make the plug-ins of one Python file known to this process, and return them.

    Args:
        path: the file.

    Raises:
        MissingError: there is no such file.
        UsageError: it cannot be read, holds no plug-in, or one whose name is taken.
    """
    path = Path(path).resolve()
    if not path.is_file():
        raise MissingError(f"There is no plug-in file {path.name!r}.", f"{path} does not exist.", "Check --plugin.")
    made = _of_file(path)
    if path not in _FILES:
        _FILES.append(path)
        _found.cache_clear()
        try:
            _found()
        except ExpungeError:
            _FILES.remove(path)
            _found.cache_clear()
            raise
    return made


def look_again() -> None:
    """Forget what is installed, for a process in which that changes."""
    importlib.invalidate_caches()
    _found.cache_clear()


def files() -> tuple[Path, ...]:
    """The plug-in files that were named."""
    return tuple(_FILES)


def file_hashes() -> dict[str, str]:
    """Name of each of them -> the hash of what it holds, for the record of a run."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest()[:16] for path in _FILES}


def of_kind(*kinds: Kind) -> list[Entry]:
    return sorted((e for e in entries().values() if e.kind in kinds), key=lambda e: (e.kind, e.name))


def find(name: str, *kinds: Kind) -> Entry:
    """The plug-in called `name`; a miss offers the nearest ones."""
    entry = entries().get(name)
    if entry is None or (kinds and entry.kind not in kinds):
        if entry is None and name in broken():
            raise UsageError(f"The plug-in {name!r} is installed and broken.", broken()[name],
                             "Mend or uninstall it; `expunge doctor` looks at every plug-in.")
        known = [e.name for e in entries().values() if not kinds or e.kind in kinds]
        label = " or ".join(kinds) if 0 < len(kinds) <= 3 else "plug-in"
        raise UsageError(f"There is no {label} called {name!r}.", did_you_mean(name, known))
    return entry


def load(name: str, *kinds: Kind) -> type[Plugin]:
    return find(name, *kinds).load()


def model_needs(name: str) -> frozenset[ModelNeed]:
    """What the model must offer to a plug-in with its default options, and to those it stands on."""
    entry = find(name)
    return entry.own_needs.union(*(model_needs(part) for part in entry.parts))


def serves_of(name: str) -> list[str]:
    """Which kinds of models a plug-in works on: text, image."""
    return serves(model_needs(name))


def _ours() -> list[Entry]:
    root = Path(__file__).parent
    found = []
    for about in KINDS.values():
        for path in sorted((root / about.folder).glob("*.py")):
            entry = _read_card(path, "expunge." + ".".join((*Path(about.folder).parts, path.stem)))
            if entry is not None:
                found.append(entry)
    return found


def _of_point(point: metadata.EntryPoint) -> Entry:
    spec = importlib.util.find_spec(point.module)
    if spec is None or spec.origin is None:
        raise UsageError(f"The plug-in {point.name!r} points to {point.module}, which is not installed.")
    entry = _read_card(Path(spec.origin), point.module, point.attr)
    if entry is None:
        raise UsageError(f"{point.module}:{point.attr} has no card = Card(name=..., kind=..., summary=...).")
    return replace(entry, file=Path(spec.origin))


def _of_file(path: Path) -> list[Entry]:
    """Every plug-in of a file that the user named. Its module is found under a name of its own."""
    module = f"expunge_plugin_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    try:
        found = [replace(e, file=path) for e in _read_cards(path, module)]
    except (SyntaxError, UnicodeDecodeError, KeyError) as error:
        raise UsageError(f"The plug-in file {path.name} cannot be read.", first_line(error), CARD) from None
    if not found:
        raise UsageError(f"The plug-in file {path.name} holds no plug-in.", "No class in it has a card.", CARD)
    if not any(isinstance(finder, _NamedFiles) for finder in sys.meta_path):
        sys.meta_path.append(_NamedFiles())
    _MODULES[module] = path
    return found


CARD = "A plug-in is a class with card = Card(name=..., kind=..., summary=...); CONTRIBUTING.md shows one."
_MODULES: dict[str, Path] = {}
"""Module name -> the file that the user named."""


class _NamedFiles(MetaPathFinder):
    """Lets `import` find plug-in files by the names of their modules, also when an object of theirs is unpickled."""

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        file = _MODULES.get(fullname)
        return None if file is None else importlib.util.spec_from_file_location(fullname, file)


def _read_card(path: Path, module: str, attribute: str | None = None) -> Entry | None:
    """The first plug-in of a file, or the class of that name."""
    return next(_read_cards(path, module, attribute), None)


def _read_cards(path: Path, module: str, attribute: str | None = None) -> Iterator[Entry]:
    """Find `class X: card = Card(name="...", kind="...", summary="...")` without running it."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if not isinstance(node, ast.ClassDef) or attribute not in (None, node.name):
            continue
        for line in node.body:
            if isinstance(line, ast.Assign) and isinstance(line.value, ast.Call) \
                    and any(isinstance(t, ast.Name) and t.id == "card" for t in line.targets):
                literal: dict[str | None, Any] = {
                    k.arg: k.value.value for k in line.value.keywords if isinstance(k.value, ast.Constant)}
                said = tuple((axis, literal[axis]) for axis in ("target", "guarantee", "access") if literal.get(axis))
                yield Entry(literal["name"], literal["kind"], literal["summary"], module, node.name,
                            *_stands_on(node, line.value), said=said)


def _stands_on(plugin: ast.ClassDef, card: ast.Call) -> tuple[frozenset[ModelNeed], tuple[str, ...]]:
    """Needs of the model, and the names of the probes of a metric or the terms of a preset."""
    given = {k.arg: k.value for k in card.keywords}
    needs = given.get("model_needs")
    own = frozenset(ast.literal_eval(needs.args[0])) if isinstance(needs, ast.Call) and needs.args else frozenset()
    probes = [str(ast.literal_eval(part.elts[0])) for part in getattr(given.get("probes"), "elts", ())]
    expanded = [str(ast.literal_eval(line.value)) for line in plugin.body if isinstance(line, ast.Assign)
                and any(isinstance(t, ast.Name) and t.id == "expands_to" for t in line.targets)]
    terms = [call.name for text in expanded for stage in parse_sum(text) for call in stage]
    return own, tuple(dict.fromkeys((*probes, *terms)))
