"""Which plug-ins exist. Adding one means adding one file; nothing is listed by hand.

Our own are the files of the folders that `plugin.KINDS` names; others come from entry points in the group
`expunge.plugins` (`name = "package.module:Class"`). Names and summaries are read from the source
with `ast`, so listing them imports neither torch nor the plug-in.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from expunge.errors import UsageError, did_you_mean
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

    def load(self) -> type[Plugin]:
        loaded = getattr(importlib.import_module(self.module), self.attribute)
        if not (isinstance(loaded, type) and issubclass(loaded, Plugin)):
            raise UsageError(f"{self.module}:{self.attribute} is not an expunge plug-in.")
        return loaded


@cache
def entries() -> dict[str, Entry]:
    """All plug-ins by name. Two with one name is an error, since names are unique across kinds."""
    found: dict[str, Entry] = {}
    for entry in [*_ours(), *_theirs()]:
        if entry.name in found:
            raise UsageError(
                f"Two plug-ins are called {entry.name!r}: {found[entry.name].module} and {entry.module}.",
                "Names are unique across kinds, so that a recipe is a sum in any order.",
            )
        found[entry.name] = entry
    return found


def of_kind(*kinds: Kind) -> list[Entry]:
    return sorted((e for e in entries().values() if e.kind in kinds), key=lambda e: (e.kind, e.name))


def find(name: str, *kinds: Kind) -> Entry:
    """The plug-in called `name`; a miss offers the nearest ones."""
    entry = entries().get(name)
    if entry is None or (kinds and entry.kind not in kinds):
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


def _theirs() -> list[Entry]:
    found = []
    for point in metadata.entry_points(group=ENTRY_POINTS):
        spec = importlib.util.find_spec(point.module)
        if spec is None or spec.origin is None:
            raise UsageError(f"The plug-in {point.name!r} points to {point.module}, which is not installed.")
        entry = _read_card(Path(spec.origin), point.module, point.attr)
        if entry is None:
            raise UsageError(f"{point.module}:{point.attr} has no card = Card(name=..., kind=..., summary=...).")
        found.append(entry)
    return found


def _read_card(path: Path, module: str, attribute: str | None = None) -> Entry | None:
    """Find `class X: card = Card(name="...", kind="...", summary="...")` without running it."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if not isinstance(node, ast.ClassDef) or attribute not in (None, node.name):
            continue
        for line in node.body:
            if isinstance(line, ast.Assign) and isinstance(line.value, ast.Call) \
                    and any(isinstance(t, ast.Name) and t.id == "card" for t in line.targets):
                literal: dict[str | None, Any] = {
                    k.arg: k.value.value for k in line.value.keywords if isinstance(k.value, ast.Constant)}
                return Entry(literal["name"], literal["kind"], literal["summary"], module, node.name,
                             *_stands_on(node, line.value))
    return None


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
