"""From a name, or from files, to a `Task`."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from itertools import zip_longest
from pathlib import Path
from typing import Any

from expunge.data.files import Located, check_map, read_rows, to_example, to_examples
from expunge.data.world import DEFAULTS, authors_task
from expunge.errors import DataError, MissingError, UsageError, did_you_mean
from expunge.records.task import SPLITS, Example, Task

TOFU = {"tofu:forget01": ("01", "99"), "tofu:forget05": ("05", "95"), "tofu:forget10": ("10", "90")}
"""Task name -> the suffixes of its forget and retain configurations."""
TASKS: Mapping[str, str] = {
    "authors": f"the built-in world of invented people; options {', '.join(DEFAULTS)}",
    **{name: f"TOFU, {int(f)} % of 200 invented authors to forget" for name, (f, _) in TOFU.items()},
}
"""Every task that has a name, and what it is in one line."""
TOFU_ROWS = 4000
TOFU_ROWS_PER_AUTHOR = 20
DATA_VARIABLE = "EXPUNGE_DATA"


def load_task(
    name: str | None,
    *,
    forget: Path | str | None = None,
    retain: Path | str | None = None,
    holdout: Path | str | None = None,
    mapping: Mapping[str, str] | None = None,
    data_dir: Path | None = None,
    limit: int | None = None,
    allow_overlap: bool = False,
    seed: int = 0,
) -> Task:
    """The task called `name`, or, when that is None, the one made of the given files.

    Args:
        name: `authors`, `authors(forget=5, seed=1)`, `tofu:forget10`; `limit` may also stand in the
            parentheses, so that the name of a task leads back to the same task.
        forget, retain, holdout: files of rows (see `files`); only without a name. Rows without an id
            are called `forget/0` and so on; ids that two files share get their split in front.
        mapping: our field name -> the file's, as `files.parse_map` gives it.
        data_dir: folder with the TOFU files, or with a folder `tofu` of them. Without it the
            environment variable EXPUNGE_DATA is tried, then the hub.
        limit: keep this many rows of every split, the first ones (utility: of all its groups in
            turn), and only probe rows that belong to kept ones.
        allow_overlap: accept forget rows that stand in retain too, and holdout rows that anyone is
            trained on.
        seed: of the built-in world; a seed in the name goes first. Files and TOFU have nothing random.

    Raises UsageError, MissingError or DataError, each with what to do next.
    """
    if limit is not None:
        _check_limit(limit)
    if name is None:
        task = _from_files(*(Path(p) if p is not None else None for p in (forget, retain, holdout)), mapping=mapping)
    else:
        if forget or retain or holdout or mapping:
            raise UsageError(
                f"The task {name!r} brings its own rows; files and --map cannot be added to it.",
                "", "Leave out the task name, or leave out --forget, --retain, --holdout and --map.",
            )
        base, options = _parse_name(name)
        if "limit" in options:
            if limit not in (None, options["limit"]):
                raise UsageError(f"The task name says limit={options['limit']}, but the limit is {limit}.")
            limit = options.pop("limit")
            _check_limit(limit)
        task = authors_task(**{"seed": seed, **options}) if base == "authors" else _tofu(base, data_dir)
    if not allow_overlap:
        _check_overlap(task)
    return task if limit is None else _limited(task, limit)


def _check_limit(limit: int) -> None:
    if limit < 1:
        raise UsageError(f"A limit of {limit} rows leaves nothing.", "", "Give a limit of 1 or more.")


def _parse_name(name: str) -> tuple[str, dict[str, int]]:
    """`authors(forget=5, seed=1)` as `("authors", {"forget": 5, "seed": 1})`."""
    match = re.fullmatch(r"\s*([^()\s]+)\s*(?:\((.*)\))?\s*", name, re.DOTALL)
    base = match[1] if match else name
    if match is None or base not in TASKS:
        fix = "A file of rows is given with --forget instead of a task name."
        raise UsageError(f"There is no task {base!r}.", did_you_mean(base, TASKS), fix)
    known = {*DEFAULTS, "limit"} if base == "authors" else {"limit"}
    options: dict[str, int] = {}
    for part in (match[2] or "").split(","):
        if not part.strip():
            continue
        key, _, value = (piece.strip() for piece in part.partition("="))
        if key not in known:
            raise UsageError(f"The task {base} has no option {key!r}.", did_you_mean(key, known))
        if not re.fullmatch(r"-?\d+", value):
            raise UsageError(f"{name}: {key} must be a whole number, not {value!r}.", fix=f"Write {base}({key}=5).")
        if key in options:
            raise UsageError(f"{name}: {key} is given twice.", fix="Give it once.")
        options[key] = int(value)
    return base, options


# Files


def _from_files(
    forget: Path | None, retain: Path | None, holdout: Path | None, *, mapping: Mapping[str, str] | None
) -> Task:
    if forget is None:
        raise UsageError(
            "There is nothing to forget: neither a task nor a forget file is given.",
            f"Known tasks: {', '.join(TASKS)}.", "Pass --task NAME or --forget FILE.",
        )
    paths = {"forget": forget, "retain": retain, "holdout": holdout}
    raw = {split: read_rows(path) for split, path in paths.items() if path}
    check_map(mapping, [row for located in raw.values() for row in located])
    rows = {split: to_examples(located, mapping=mapping, prefix=split) for split, located in raw.items()}
    ids = [row.id for split in rows.values() for row in split]
    if len(set(ids)) < len(ids):  # files are often numbered from 1 each
        rows = {split: tuple(_with(row, id=f"{split}/{row.id}") for row in found)
                for split, found in rows.items()}
    return Task(name=f"files:{forget.stem}", forget=rows["forget"], retain=rows.get("retain", ()),
                holdout=rows.get("holdout", ()))


# TOFU (arXiv 2401.06121): 200 authors with 20 rows each, in order; the last ones are to be forgotten.


def _tofu(name: str, data_dir: Path | None) -> Task:
    part, rest = TOFU[name]
    folder = _tofu_folder(Path(data_dir) if data_dir is not None else None)

    def rows(config: str, prefix: str, start: int = 0) -> tuple[Example, ...]:
        located = _tofu_rows(config, folder)
        return tuple(
            _with(to_example(row, where=where, id=f"tofu/{prefix}/{i}"),
                  entity=f"tofu/{'' if prefix == 'full' else prefix + '/'}author{i // TOFU_ROWS_PER_AUTHOR}")
            for i, (where, row) in enumerate(located, start)
        )

    retain = rows(f"retain{rest}", "full")
    forget = rows(f"forget{part}", "full", start=len(retain))
    if len(retain) + len(forget) != TOFU_ROWS:
        raise DataError(
            f"{name}: {len(retain)} retain and {len(forget)} forget rows do not make {TOFU_ROWS}.",
            "The files are not the published ones, so ids and authors would be wrong.",
        )
    return Task(
        name=name, forget=forget, retain=retain, holdout=rows(f"holdout{part}", "holdout"),
        utility=_tofu_utility("real_authors", folder) + _tofu_utility("world_facts", folder),
        probes={
            "forget": _same_rows(rows(f"forget{part}_perturbed", "full", start=len(retain)), forget, name),
            "retain": _same_rows(rows("retain_perturbed", "full"), retain[:400], name),
        },
        generation_tokens=200,
    )


def _same_rows(probe: tuple[Example, ...], training: tuple[Example, ...], name: str) -> tuple[Example, ...]:
    """Probe rows get their ids by position, so position by position they must be the training rows.

    Matching by question would not do: one question occurs twice among the 4,000, with two answers.
    """
    for p, t in zip_longest(probe, training):
        if p is None or t is None or (p.prompt, p.answer) != (t.prompt, t.answer):
            raise DataError(
                f"{name}: the perturbed rows are not the training rows in the same order.",
                f"The first difference is at {(p or t).id}.", "Use the published files unchanged.",
            )
    return probe


def _tofu_utility(config: str, folder: Path | None) -> tuple[Example, ...]:
    """Real-world questions that nobody is trained on; options come from the plain file."""
    plain, perturbed = _tofu_rows(config, folder), _tofu_rows(f"{config}_perturbed", folder)
    result = []
    for i, ((_, options), (where, row)) in enumerate(zip(plain, perturbed, strict=False)):
        if options.get("question") != row.get("question") or len(plain) != len(perturbed):
            raise DataError(f"{where}: this is not the same question as in {config}.")
        merged = {**row, "options": [options.get(f"option{k}") for k in (1, 2, 3, 4)]}
        result.append(_with(to_example(merged, where=where, id=f"tofu/{config}/{i}"), group=config))
    return tuple(result)


def _tofu_folder(data_dir: Path | None) -> Path | None:
    """The folder with the TOFU files; None means the hub. An argument must be right, a variable may be."""
    named = data_dir or (Path(os.environ[DATA_VARIABLE]) if os.environ.get(DATA_VARIABLE) else None)
    for folder in (named, named / "tofu") if named else ():
        if (folder / "forget10.json").is_file():
            return folder
    if data_dir is not None:
        raise MissingError(
            f"{data_dir} does not hold the TOFU data.",
            "Neither it nor its folder 'tofu' contains forget10.json.",
            "Give the folder with the files of the data set locuslab/TOFU.",
        )
    return None


def _tofu_rows(config: str, folder: Path | None) -> list[Located]:
    if folder is not None:
        return read_rows(folder / f"{config}.json")
    fix = f"Give a folder with the files by --data-dir or the variable {DATA_VARIABLE}."
    try:
        from datasets import load_dataset
    except ImportError:
        raise MissingError(
            "The TOFU data is not here, and the package `datasets` that could fetch it is not installed.",
            "", f"{fix} Or: pip install 'expunge[hub]'",
        ) from None
    try:
        found: Iterable[Any] = load_dataset("locuslab/TOFU", config)["train"]
        return [(f"locuslab/TOFU {config}, row {n}", dict(row)) for n, row in enumerate(found, 1)]
    except Exception as error:  # the hub client raises a dozen unrelated types when it is offline
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise MissingError("The TOFU data could not be fetched from the hub.", reason, fix) from None


# Checks and cuts, for every task


def _key(row: Example) -> tuple[str, ...]:
    """What makes two rows the same: prompt (or all turns, or the image) and answer, without case and spacing."""
    parts = [content for _, content in row.messages] or [row.image.data if row.image else row.prompt]
    return tuple(" ".join(part.casefold().split()) for part in (*parts, row.answer))


def _check_overlap(task: Task) -> None:
    for split, rows, others, why in (
        ("forget", task.forget, (*task.retain, *task.background),
         "Unlearning would be asked to forget and to keep the same row."),
        ("holdout", task.holdout, task.training_rows("full"),
         "Holdout rows are the control that no model may have seen."),
    ):
        keys = {_key(row): row.id for row in others}
        both = [row for row in rows if _key(row) in keys]
        if both:
            where = "retain" if split == "forget" else "the training rows"
            example = " ".join(f"{both[0].prompt} {both[0].answer}".split())
            raise DataError(
                f"{len(both)} of {len(rows)} {split} rows also stand in {where}.",
                f"{why} The first is {both[0].id} (also {keys[_key(both[0])]}): {example[:120]!r}.",
                "Remove them from one side, or accept it with --allow-overlap.",
            )


def _limited(task: Task, limit: int) -> Task:
    """The first rows of every view, with probes, background and links cut to match."""
    splits = {split: task.split(split)[:limit] for split in SPLITS}
    splits["utility"] = _first_of_each_group(task.utility, limit)
    kept = {row.id for rows in splits.values() for row in rows}
    cut_ids = {row.id for split in SPLITS for row in task.split(split)} - kept
    background = tuple(row for row in task.background if row.id not in cut_ids)
    probes = {
        split: found for split, rows in task.probes.items()
        if (found := tuple(row for row in rows if row.id not in cut_ids)[:limit])
    }
    known = kept | {row.id for row in background}

    def linked(rows: tuple[Example, ...]) -> tuple[Example, ...]:
        # Half of the rows something follows from are not enough to follow from: all links or none.
        return tuple(_with(row, links=()) if set(row.links) - known else row for row in rows)

    base = task.name[:-1] + "," if task.name.startswith("authors(") else task.name + "("
    return task.model_copy(update={
        "name": f"{base}limit={limit})", **{split: linked(rows) for split, rows in splits.items()},
        "background": linked(background), "probes": {split: linked(rows) for split, rows in probes.items()},
    })


def _first_of_each_group(rows: tuple[Example, ...], limit: int) -> tuple[Example, ...]:
    """`limit` rows with all groups in turn, in their old order, so that a cut loses no group early."""
    rank: dict[str, int] = {}
    turn = []
    for i, row in enumerate(rows):
        rank[row.group] = rank.get(row.group, -1) + 1
        turn.append((rank[row.group], i))
    return tuple(rows[i] for i in sorted(i for _, i in sorted(turn)[:limit]))


def _with(row: Example, **changes: Any) -> Example:
    return row.model_copy(update=changes)
