"""What tasks of every origin share: rows from files, checks for overlap, limits."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from expunge.data.duplicates import row_key
from expunge.data.files import read_source, source_name, to_examples
from expunge.data.mapping import check_map
from expunge.errors import DataError
from expunge.records.settings import Overlap
from expunge.records.task import SPLITS, Example, Task
from expunge.seeding import derive


def task_from_files(
    forget: Path, retain: Path | None, holdout: Path | None, *, mapping: Mapping[str, str] | None
) -> Task:
    """The task whose splits are the rows of these files, folders or data sets of the hub (`files.read_source`).

    Raises MissingError or DataError for files that are not there or cannot be read.
    """
    paths = {"forget": forget, "retain": retain, "holdout": holdout}
    read = {split: read_source(path) for split, path in paths.items() if path}
    check_map(mapping, [row for source in read.values() for row in source.rows])
    rows, notes = {}, []
    for split, source in read.items():
        rows[split], told = to_examples(source.rows, mapping=mapping, prefix=split)
        notes += [*source.notes, *told]
    ids = [row.id for split in rows.values() for row in split]
    if len(set(ids)) < len(ids):  # files are often numbered from 1 each
        rows = {split: tuple(with_changes(row, id=f"{split}/{row.id}") for row in found)
                for split, found in rows.items()}
    return Task(name=f"files:{source_name(forget)}", forget=rows["forget"], retain=rows.get("retain", ()),
                holdout=rows.get("holdout", ()), notes=tuple(notes))


def check_overlap(task: Task) -> None:
    """Raises DataError for rows that must stand on one side only and do not."""
    settle_overlap(task, "refuse")


def settle_overlap(task: Task, on_overlap: Overlap) -> Task:
    """The task with no row on two sides, or as it is for `keep`.

    A row of forget and retain is dropped from retain: what is asked to be forgotten is not trained on. A row of holdout
    and any other set that a model may have seen is dropped from holdout.

    Raises:
        DataError: `refuse`, and there is such a row; `drop`, and it would leave a set without rows.
    """
    if on_overlap == "keep":
        return task
    for split, others, drop_from, why in (
        ("forget", ("retain", "background"), ("retain", "background"),
         "Unlearning would be asked to forget and to keep the same row."),
        ("holdout", ("forget", "retain", "background"), ("holdout",),
         "Holdout rows are the control that no model may have seen."),
    ):
        rows: tuple[Example, ...] = getattr(task, split)
        keys = {row_key(row): row.id for other in others for row in getattr(task, other)}
        both = [row for row in rows if row_key(row) in keys]
        if both and on_overlap == "refuse":
            where = "retain" if split == "forget" else "the training rows"
            example = " ".join(f"{both[0].prompt} {both[0].answer}".split())
            raise DataError(
                f"{len(both)} of {len(rows)} {split} rows also stand in {where}.",
                f"{why} The first is {both[0].id} (also {keys[row_key(both[0])]}): {example[:120]!r}.",
                f"Drop them from {drop_from[0]} with --on-overlap drop, or accept it with --on-overlap keep.",
            )
        if both:
            task = _without(task, {row_key(row) for row in both}, drop_from)
    return task


def _without(task: Task, keys: set[tuple[str, ...]], splits: tuple[str, ...]) -> Task:
    """The task without these rows in these sets, with a note of how many."""
    kept = {split: tuple(row for row in getattr(task, split) if row_key(row) not in keys) for split in splits}
    gone = {split: len(getattr(task, split)) - len(rows) for split, rows in kept.items()}
    emptied = next((split for split, rows in kept.items() if gone[split] and not rows), None)
    if emptied:
        raise DataError(f"Every {emptied} row also stands on the other side; none is left with --on-overlap drop.",
                        fix=f"Leave {emptied} rows out, or give others.")
    notes = tuple(f"{count} {split} rows are dropped: they also stand in "
                  f"{'the rows that models are trained on' if split == 'holdout' else 'forget'} (--on-overlap drop)."
                  for split, count in gone.items() if count)
    dropped = {row.id for split in splits for row in getattr(task, split)} - {
        row.id for rows in kept.values() for row in rows}
    probes = {split: tuple(row for row in rows if split not in splits or row.id not in dropped)
              for split, rows in task.probes.items()}
    return task.model_copy(update={**kept, "notes": task.notes + notes, "probes": probes})


LIMIT_SEED = 0
"""Of the draw of a limit. It is no option, so that the name of a task leads back to the same rows."""


def limited(task: Task, limit: int) -> Task:
    """`limit` rows of every view, with probes, background and links cut to match.

    Rows are drawn with seed `LIMIT_SEED`, from all entities in turn: the first rows would be those of a few entities,
    and a model that forgot only these would pass.
    """
    splits = {split: _drawn(task.split(split), limit, task.probes.get(split, ())) for split in SPLITS}
    splits["utility"] = _first_of_each_group(task.utility, limit)
    kept = {row.id for rows in splits.values() for row in rows}
    cut_ids = {row.id for split in SPLITS for row in task.split(split)} - kept
    background = tuple(row for row in task.background if row.id not in cut_ids)
    # Rows that are asked in place of a split, and of an entity of which no row is left, go too.
    gone = {row.entity for split in SPLITS for row in task.split(split) if row.entity} - {
        row.entity for rows in splits.values() for row in rows}
    probes = {
        split: found for split, rows in task.probes.items()
        if (found := _probes(tuple(row for row in rows if row.id not in cut_ids and row.entity not in gone), limit,
                             kept))
    }
    known = kept | {row.id for row in background}

    def linked(rows: tuple[Example, ...]) -> tuple[Example, ...]:
        # Half of the rows something follows from are not enough to follow from: all links or none.
        return tuple(with_changes(row, links=()) if set(row.links) - known else row for row in rows)

    name = re.sub(r"\(limit=\d+\)$", "", re.sub(r",limit=\d+\)$", ")", task.name))  # of an earlier, larger limit
    options = name.endswith(")") and not name.startswith("files:")
    base = name[:-1] + "," if options else name + "("
    left, before = splits["forget"], task.forget
    people, all_people = ({row.entity or row.id for row in rows} for rows in (left, before))
    note = () if len(left) == len(before) else (
        f"limit={limit} keeps {len(left)} of {len(before)} forget rows, of {len(people)} of {len(all_people)} "
        f"entities, drawn with seed {LIMIT_SEED}.",)
    return task.model_copy(update={
        "notes": (*(n for n in task.notes if not n.startswith("limit=")), *note),
        "name": f"{base}limit={limit})", **{split: linked(rows) for split, rows in splits.items()},
        "background": linked(background), "probes": {split: linked(rows) for split, rows in probes.items()},
    })


def _drawn(rows: tuple[Example, ...], limit: int, asked: tuple[Example, ...] = ()) -> tuple[Example, ...]:
    """`limit` rows of all entities in turn, in their old order; those that an audit asks come first.

    A row without an entity is its own.
    """
    if len(rows) <= limit:
        return rows
    first = {row.id for row in asked}
    seen: dict[str, int] = {}
    turn = []
    # Numbers from ids, so that a limit of a limit gives the rows of the smaller one.
    for i in sorted(range(len(rows)), key=lambda i: derive(LIMIT_SEED, rows[i].id)):
        entity = rows[i].entity or rows[i].id
        seen[entity] = seen.get(entity, -1) + 1
        turn.append((rows[i].id not in first, seen[entity], derive(LIMIT_SEED, entity), i))
    return tuple(rows[i] for i in sorted(i for *_, i in sorted(turn)[:limit]))


def _probes(rows: tuple[Example, ...], limit: int, kept: set[str]) -> tuple[Example, ...]:
    """`limit` rows of those that stand in a split too, and of each group of the others."""
    groups = dict.fromkeys(None if row.id in kept else row.group for row in rows)
    drawn = [_drawn(tuple(row for row in rows if (None if row.id in kept else row.group) == group), limit)
             for group in groups]
    ids = {row.id for found in drawn for row in found}
    return tuple(row for row in rows if row.id in ids)


def _first_of_each_group(rows: tuple[Example, ...], limit: int) -> tuple[Example, ...]:
    """`limit` rows with all groups in turn, in their old order, so that a cut loses no group early."""
    rank: dict[str, int] = {}
    turn = []
    for i, row in enumerate(rows):
        rank[row.group] = rank.get(row.group, -1) + 1
        turn.append((rank[row.group], i))
    return tuple(rows[i] for i in sorted(i for _, i in sorted(turn)[:limit]))


def with_changes(row: Example, **changes: Any) -> Example:
    """A copy of the row with other values in these fields."""
    return row.model_copy(update=changes)
