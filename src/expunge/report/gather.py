"""A run or audit folder becomes one frozen view; what is absent stays absent and is named later."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from expunge.errors import ExpungeError, MissingError
from expunge.records.base import fingerprint, read_json
from expunge.records.grid import cells_of, unfinished
from expunge.records.observation import Observations
from expunge.records.purged import Purged
from expunge.records.run import RunFolder, RunRecord
from expunge.records.score import Audit
from expunge.records.task import Task

NOTHING = Observations({})
OWN_COLUMN = ("seed", "template")
"""What has a column of its own, or would fill the screen."""


@dataclass(frozen=True)
class AttackFolder:
    """Where the observations of one model under one attack lie; read when they are needed, since there are many."""

    role: str
    label: str
    split: str
    folder: Path

    def asked(self, probe: str) -> bool:
        return any(self.folder.glob(f"{probe}.*.jsonl"))

    def read(self) -> Observations:
        return Observations.read(self.folder)


@dataclass(frozen=True)
class RunView:
    """Everything a page needs of one run. Empty parts mean that the folder does not hold them."""

    name: str
    record: RunRecord | None = None
    audit: Audit | None = None
    steps: tuple[dict[str, Any], ...] = ()
    unreadable_steps: int = 0
    subject: Observations = NOTHING
    original: Observations = NOTHING
    retrained: tuple[Observations, ...] = ()
    attacked: tuple[AttackFolder, ...] = ()
    purged: Purged | None = None
    rows: Task | None = None
    """The rows it was made with, where its folder, or that of the run it audits, holds them."""
    folder: Path | None = None

    @property
    def task(self) -> str:
        return self.record.task if self.record else self.audit.task if self.audit else ""

    @property
    def model(self) -> str:
        return self.record.model if self.record else self.audit.subject.path if self.audit else ""

    @property
    def recipe(self) -> str:
        return self.record.recipe if self.record else ""

    @property
    def seed(self) -> int | None:
        return self.record.seed if self.record else None

    @property
    def recipe_key(self) -> str | None:
        """Equal for runs that differ in nothing but their seed; None when no record says so."""
        if self.record is None:
            return None
        r = self.record
        settings = r.settings.to_json()
        recipe = r.recipe_full or r.recipe
        return fingerprint([r.kind, recipe, settings, r.model_fingerprint, r.task, r.task_fingerprints])


@dataclass(frozen=True)
class Group:
    """Runs of one recipe that differ in their seed, under one letter of the comparison."""

    letter: str
    title: str
    views: tuple[RunView, ...] = field(default_factory=tuple)


def gather(folders: Sequence[Path], *, observations: bool = True) -> tuple[RunView, ...]:
    """One view per run, in the order given.

    The folder of a grid stands for its finished cells. A run folder whose audit lies in another of the given folders
    is shown once, with that audit. Without `observations` the rows of every model stay on disk.
    Raises MissingError when a folder does not exist or holds neither record.json nor audit.json, and when no cell of
    the grids is finished.
    """
    roots = list(dict.fromkeys(cell.resolve() for folder in folders for cell in cells_of(Path(folder))))
    if not roots and folders:
        raise MissingError("None of these grids has a finished cell.",
                           "\n".join(map(unfinished, folders)),
                           "Repeat the command of the grid with --resume.")
    if not roots:
        raise MissingError("No folder was given.", "", "Name at least one run or audit folder.")
    for root in roots:
        _check(root)
    sources = {root: record_path(root) for root in roots}
    audited = {sources[root] for root in roots if RunFolder(root).audit.exists()}
    kept = [root for root in roots if RunFolder(root).audit.exists() or sources[root] not in audited]
    return tuple(_view(root, sources[root], name, observations)
                 for root, name in zip(kept, _names(kept), strict=True))


def group(views: Sequence[RunView]) -> tuple[Group, ...]:
    """Put runs that share a recipe together, in first-seen order, under A, B, C, ..."""
    members: dict[str, list[RunView]] = {}
    for i, view in enumerate(views):
        members.setdefault(view.recipe_key or f"alone-{i}", []).append(view)
    titles = _titles([m[0] for m in members.values()])
    return tuple(Group(letter(i), title, tuple(m))
                 for i, (title, m) in enumerate(zip(titles, members.values(), strict=True)))


def _titles(views: Sequence[RunView]) -> list[str]:
    """The recipe of each; where several have it, with the options in which they differ, else with the folder."""
    titles = []
    for view in views:
        same = [options(v.record) for v in views if v.recipe == view.recipe]
        mine = options(view.record)
        differ = [k for k in mine if any(other.get(k) != mine[k] for other in same)]
        words = ", ".join(f"{k.rpartition('.')[2]}={mine[k]:g}" if isinstance(mine[k], float) else
                          f"{k.rpartition('.')[2]}={mine[k]}" for k in differ)
        titles.append(" ".join(filter(None, (view.recipe or view.name, words))))
    return [t if titles.count(t) == 1 else f"{t} ({v.name})" for t, v in zip(titles, views, strict=True)]


def options(record: RunRecord | None) -> dict[str, Any]:
    """Every option of a run: `npo.beta` of a term (`2.npo.beta` in the second stage), `epochs` of the command."""
    if record is None:
        return {}
    several = len(record.recipe_full) > 1
    found: dict[str, Any] = {}
    for stage, terms in record.recipe_full.items():
        where = f"{int(stage) + 1}." if several and stage.isdigit() else ""
        for term, given in terms.items() if isinstance(terms, dict) else ():
            if isinstance(given, dict):
                found |= {f"{where}{term}.{name}": value for name, value in given.items()}
    return found | {name: value for name, value in record.settings.to_json().items() if name not in OWN_COLUMN}


def letter(i: int) -> str:
    """A ... Z, AA, AB, ..."""
    return (letter(i // 26 - 1) if i >= 26 else "") + chr(ord("A") + i % 26)


def _check(root: Path) -> None:
    if not root.is_dir():
        raise MissingError(
            f"There is no folder {root}.", "A report needs the folder of a run or of an audit.",
            "Check the path, or make one with: expunge forget MODEL --task TASK --method RECIPE --out RUN",
        )
    files = RunFolder(root)
    if not files.record.exists() and not files.audit.exists():
        if (root / "config.json").exists():
            raise MissingError(f"{root} holds a model, and no run and no audit.", "Nothing is known about it yet.",
                               f"Audit it first: expunge audit {root} --task TASK --out DIR")
        raise MissingError(
            f"{root} is neither a run nor an audit.", "It holds no record.json and no audit.json.",
            "Give the folder named by --out of `expunge forget`, `expunge train` or `expunge audit`.",
        )


def record_path(root: Path) -> Path:
    """Where the run record of a folder lies: in it, or where its audit points (maybe nowhere)."""
    files = RunFolder(root)
    if files.record.exists() or not files.audit.exists():
        return files.record
    run = Audit.read(files.audit).run
    if run is None:
        return files.record
    target = (root / run).resolve()
    return RunFolder(target).record if target.is_dir() else target


def _view(root: Path, record: Path, name: str, observations: bool) -> RunView:
    files, run = RunFolder(root), RunFolder(record.parent)
    held = next((place for place in (files.rows, run.rows) if place.exists()), None)
    steps, unreadable = _steps(run.steps)
    references = {p.name: p for p in sorted(files.observations.glob("*")) if p.is_dir()}
    retrained = sorted((n for n in references if n.startswith("retrained")), key=lambda n: (len(n), n))

    def seen(role: str) -> Observations:
        return _observations(references.get(role) if observations else None)

    return RunView(
        name=name,
        record=RunRecord.read(record) if record.exists() else None,
        audit=Audit.read(files.audit) if files.audit.exists() else None,
        steps=steps,
        unreadable_steps=unreadable,
        subject=seen("subject"),
        original=seen("original"),
        retrained=tuple(map(seen, retrained)),
        attacked=tuple(_attacked(references)),
        purged=Purged.read(files.purged) if files.purged.exists() else None,
        rows=Task.read(held) if held else None,
        folder=root,
    )


def _attacked(roles: Mapping[str, Path]) -> Iterator[AttackFolder]:
    """What source.json of ROLE/attacks/* says; folders without a readable one are left out."""
    for role, folder in roles.items():
        for path in sorted(folder.glob("attacks/*/source.json")):
            try:
                source = read_json(path)
            except ExpungeError:
                continue
            if isinstance(source, dict) and source.get("attack"):
                yield AttackFolder(role, str(source["attack"]), str(source.get("split", "forget")), path.parent)


def _observations(folder: Path | None) -> Observations:
    return Observations.read(folder) if folder is not None else NOTHING


def _steps(path: Path) -> tuple[tuple[dict[str, Any], ...], int]:
    """Lines of steps.jsonl, one per step, and how many could not be read.

    A killed run may leave half a last line, and a resumed one repeats steps; the later line counts.
    """
    if not path.exists():
        return (), 0
    found: dict[tuple[Any, Any], dict[str, Any]] = {}
    unreadable = 0
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines()):
        if not line.strip():
            continue
        try:
            step = json.loads(line)
        except json.JSONDecodeError:
            unreadable += 1
            continue
        if isinstance(step, dict):
            found[step.get("stage"), step.get("step", f"line {number}")] = step
        else:
            unreadable += 1
    return tuple(found.values()), unreadable


def _names(roots: Sequence[Path]) -> list[str]:
    """The shortest ends of the paths that still tell the folders apart."""
    depth = 1
    while depth < 8:
        names = ["/".join(root.parts[-depth:]) for root in roots]
        if len(set(names)) == len(names):
            return names
        depth += 1
    return [str(root) for root in roots]


def finite(values: Iterable[Any]) -> list[float]:
    """The values that are finite numbers (not booleans), as floats."""
    return [
        float(v) for v in values
        if isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v)
    ]
