"""From a name, or from files, to a `Task`."""

from __future__ import annotations

import ast
import contextlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from expunge.benchmarks.base import TaskPlugin
from expunge.data.mapping import parse_map
from expunge.data.shapes import FIELDS
from expunge.data.tasks import limited, settle_overlap, task_from_files
from expunge.errors import UsageError, did_you_mean
from expunge.records.run import RunFolder
from expunge.records.settings import AuditSettings, LoopSettings, Overlap, check_limit
from expunge.records.task import Task
from expunge.registry import entries, of_kind

SUITE = "standard"
"""What an audit asks of a task made of files."""


def load_task(
    name: str | Path | None = None,
    *,
    forget: str | Path | None = None,
    retain: str | Path | None = None,
    holdout: str | Path | None = None,
    mapping: Mapping[str, str] | str | None = None,
    data_dir: str | Path | None = None,
    limit: int | None = None,
    on_overlap: Overlap = "refuse",
    seed: int = 0,
) -> Task:
    """The task called `name`, or, when that is left out, the one made of the given files.

    Args:
        name: a run folder, whose rows are meant, or `authors`, `authors(forget=5, seed=1)`, `tofu:forget10`;
            `limit` may also stand in the parentheses, so that the name of a task leads back to the same task.
        forget, retain, holdout: files of rows, folders or data sets of the hub (`data.files.read_source`); only
            without a name. Rows without an id are called `forget/0` and so on; ids that two files share get their
            split in front.
        mapping: our field name -> the file's, or a path to it (`data.mapping`); or both as --map has them.
        data_dir: folder with the files of a published data set, such as TOFU's, or with a folder `tofu` of
            them. Without it the environment variable EXPUNGE_DATA is tried, then the hub.
        limit: keep this many rows of every split, drawn from all entities in turn (utility: of all its groups in
            turn), and only probe rows that belong to kept ones.
        on_overlap: what to do with forget rows that stand in retain too, and holdout rows that a model is trained on:
            "refuse"; "drop" them from retain (from holdout); "keep" them.
        seed: of a task that draws its rows; a seed in the name goes first.

    Raises UsageError, MissingError or DataError, each with what to do next.
    """
    if limit is not None:
        check_limit(limit)
    for given in (name, forget, retain, holdout):
        if given is not None and not isinstance(given, str | Path):
            raise UsageError(f"Rows are read from a file, not from a {type(given).__name__}.",
                             "A task of rows in memory is made by hand.",
                             "Write one row a line with json.dumps, or build expunge.Task(name=..., forget=(...)) of "
                             "expunge.Example.")
    if name is None:
        if forget is None:
            raise UsageError("There is nothing to forget: neither a task nor a forget file is given.",
                             f"Known tasks: {', '.join(task_names())}.", "Pass --task NAME or --forget FILE.")
        task = task_from_files(Path(forget), *(Path(p) if p is not None else None for p in (retain, holdout)),
                               mapping=parse_map(mapping, FIELDS) if isinstance(mapping, str) else mapping)
    else:
        if forget or retain or holdout or mapping:
            raise UsageError(
                f"The task {name!r} brings its own rows; files and --map cannot be added to it.",
                "", "Leave out the task name, or leave out --forget, --retain, --holdout and --map.",
            )
        if (known := remembered(Path(name))) is not None:
            return known if limit is None else limited(known, limit)
        name = str(name)
        plugin, options = parse_task(name)
        if "limit" in options and "limit" not in plugin.Spec.model_fields:
            inside = options.pop("limit")
            if not isinstance(inside, int):
                raise UsageError(f"{name}: limit must be a whole number, not {inside!r}.")
            if limit not in (None, inside):
                raise UsageError(f"The task name says limit={inside}, but the limit is {limit}.")
            check_limit(limit := inside)
        if seed and "seed" in plugin.Spec.model_fields:
            options.setdefault("seed", seed)
        task = plugin(**options).load(Path(data_dir) if data_dir is not None else None)
    task = settle_overlap(task, on_overlap)
    return task if limit is None else limited(task, limit)


def as_task(task: Task | str | None, settings: LoopSettings | AuditSettings, **files: Any) -> Task:
    """A given task, or what `load_task` makes of a name or of files; cut to the limit and with the template asked for.

    Rows that stand on two sides were refused when a given task was loaded; here they are only dropped, if asked for.
    """
    if isinstance(task, Task) and any(files.get(name) for name in ("forget", "retain", "holdout", "mapping")):
        if files.get("forget") or files.get("retain") or not files.get("holdout") or task.holdout:
            raise UsageError("A run brings its own rows, and a task too; other rows and --map cannot be added to them.",
                             "Only holdout rows can, where it has none.",
                             "Give all rows as files, --forget FILE among them, and no task.")
        task = settle_overlap(_with_holdout(task, Path(files["holdout"]), files.get("mapping")), settings.on_overlap)
    if not isinstance(task, Task):
        task = load_task(task, limit=settings.limit, on_overlap=settings.on_overlap, **files)
    else:
        task = settle_overlap(task, "drop" if settings.on_overlap == "drop" else "keep")
        cut = task if settings.limit is None else limited(task, settings.limit)
        # A task that is short enough keeps its name: the command line hands over tasks that are cut already.
        task = task if cut.fingerprints() == task.fingerprints() else cut
    return task if settings.template is None else task.model_copy(update={"template": settings.template})


def _with_holdout(task: Task, file: Path, mapping: Mapping[str, str] | str | None) -> Task:
    """A task with the rows of a file as its holdout rows."""
    named = parse_map(mapping, FIELDS) if isinstance(mapping, str) else mapping
    rows = task_from_files(file, None, None, mapping=named).forget
    return task.model_copy(update={"holdout": tuple(
        row.model_copy(update={"id": f"holdout/{i}"}) for i, row in enumerate(rows))})


def remembered(run: Path) -> Task | None:
    """The rows that a run was made with, as its folder holds them; None where there are none."""
    place = RunFolder(run).rows
    return Task.read(place) if place.is_file() else None


def parse_task(name: str) -> tuple[type[TaskPlugin], dict[str, Any]]:
    """The plug-in that a name asks for, and its options: `tofu:forget10(limit=5)`, `digits(forget=class:3)`.

    Raises:
        UsageError: an unknown name, with the nearest known ones, or options that cannot be read.
    """
    match = re.fullmatch(r"\s*([^():\s]+)(?::([^():\s]+))?\s*(?:\((.*)\))?\s*", name, re.DOTALL)
    entry = entries().get(match[1]) if match else None
    if match is None or entry is None or entry.kind != "task":
        raise _unknown(match[1] if match else name)
    plugin = cast(type[TaskPlugin], entry.load())
    options: dict[str, Any] = {}
    if match[2]:
        if f"{match[1]}:{match[2]}" not in plugin.names():
            raise _unknown(f"{match[1]}:{match[2]}")
        options[plugin.part] = match[2]
    for piece in re.split(r",(?![^\[]*\])", match[3] or ""):
        key, equals, value = (text.strip() for text in piece.partition("="))
        if not piece.strip():
            continue
        if not equals or not value:
            raise UsageError(f"{name}: {key} has no value.", fix=f"Write {match[1]}({key}=...).")
        if key in options:
            raise UsageError(f"{name}: {key} is given twice.", fix="Give it once.")
        options[key] = _value(value)
    return plugin, options


def default_suite(task: str) -> str:
    """What an audit of the task of this name asks when no suite is named."""
    entry = entries().get(re.split(r"[:(]", task, maxsplit=1)[0])
    if entry is None or entry.kind != "task":
        return SUITE
    return cast(type[TaskPlugin], entry.load()).card.suite


def task_names() -> list[str]:
    """Every name of every task; installed ones that do not import are left out (`expunge doctor` names them)."""
    found: list[str] = []
    for entry in of_kind("task"):
        with contextlib.suppress(UsageError):
            found += cast(type[TaskPlugin], entry.load()).names()
    return found


def _value(text: str) -> Any:
    """A literal, or a word such as class:3 as it stands."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _unknown(name: str) -> UsageError:
    return UsageError(f"There is no task {name!r}.", did_you_mean(name, task_names()),
                      "A file of rows is given with --forget instead of a task name.")
