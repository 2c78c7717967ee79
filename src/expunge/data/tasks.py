"""What tasks of every origin share: rows from files, checks for overlap, limits."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from expunge.data.files import check_map, read_rows, to_examples
from expunge.errors import DataError
from expunge.records.task import SPLITS, Example, Task


def task_from_files(
    forget: Path, retain: Path | None, holdout: Path | None, *, mapping: Mapping[str, str] | None
) -> Task:
    """The task whose splits are the rows of these files.

    Raises MissingError or DataError for files that are not there or cannot be read.
    """
    paths = {"forget": forget, "retain": retain, "holdout": holdout}
    raw = {split: read_rows(path) for split, path in paths.items() if path}
    check_map(mapping, [row for located in raw.values() for row in located])
    rows = {split: to_examples(located, mapping=mapping, prefix=split) for split, located in raw.items()}
    ids = [row.id for split in rows.values() for row in split]
    if len(set(ids)) < len(ids):  # files are often numbered from 1 each
        rows = {split: tuple(with_changes(row, id=f"{split}/{row.id}") for row in found)
                for split, found in rows.items()}
    return Task(name=f"files:{forget.stem}", forget=rows["forget"], retain=rows.get("retain", ()),
                holdout=rows.get("holdout", ()))


def _key(row: Example) -> tuple[str, ...]:
    """What makes two rows the same: image, prompt (or all turns) and answer, without case and spacing of their text."""
    parts = [content for _, content in row.messages] or ([] if row.image else [row.prompt])
    image = (row.image.data,) if row.image else ()  # base64: another case is another image
    return (*image, *(" ".join(part.casefold().split()) for part in (*parts, row.answer)))


def check_overlap(task: Task) -> None:
    """Raises DataError for rows that must stand on one side only and do not."""
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


def limited(task: Task, limit: int) -> Task:
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
        return tuple(with_changes(row, links=()) if set(row.links) - known else row for row in rows)

    name = re.sub(r"\(limit=\d+\)$", "", re.sub(r",limit=\d+\)$", ")", task.name))  # of an earlier, larger limit
    options = name.endswith(")") and not name.startswith("files:")
    base = name[:-1] + "," if options else name + "("
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


def with_changes(row: Example, **changes: Any) -> Example:
    """A copy of the row with other values in these fields."""
    return row.model_copy(update=changes)
