"""One request after the other as tasks of ordinary runs: what each forgets, what it keeps, and what is asked after it.

Pure functions of rows. What was ever requested is never among the rows to keep, in whatever set of the task it stands,
and rows that say the same as a deleted one go with it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from math import inf

from expunge.data.duplicates import row_key
from expunge.errors import DataError
from expunge.records.requests import DeletionRequest, end_of
from expunge.records.task import Example, Task


@dataclass(frozen=True)
class RequestBatch:
    """Requests that one run carries out."""

    requests: tuple[str, ...]
    rows: tuple[Example, ...]
    """What is still to be deleted of them, each once; none where earlier runs deleted all of it."""


def next_batch(open_: Sequence[DeletionRequest], deleted: Set[str], rows: Mapping[str, Sequence[Example]],
               size: int) -> tuple[list[str], RequestBatch]:
    """The requests that come next, those due first in front.

    Args:
        open_: requests that are open, in their order.
        deleted: names of the rows that are deleted already.
        rows: name -> the rows that have it.

    Returns:
        Requests of which everything was deleted before, for which nothing is run; and the next ones of which something
        is left, up to `size`. A request that asks for what another one of the batch asks for is in the batch.
    """
    before = [r.id for r in open_ if set(r.rows) <= deleted]
    chosen = [r for r in sorted(open_, key=_due) if r.id not in before][:size]
    names = dict.fromkeys(name for r in chosen for name in r.rows if name not in deleted)
    return before, RequestBatch(tuple(r.id for r in chosen), tuple(row for name in names for row in rows[name]))


def _due(request: DeletionRequest) -> tuple[float, int]:
    return end_of(request.deadline).timestamp() if request.deadline else inf, request.number


def task_of_run(task: Task, batch: Sequence[Example], requested: Iterable[Example]) -> Task:
    """The task of one run.

    Args:
        batch: rows to forget now.
        requested: rows of all requests, carried out or not.

    Raises:
        DataError: every row to keep was requested.
    """
    gone = {row_key(row) for row in requested}
    kept = {split: tuple(row for row in getattr(task, split) if row_key(row) not in gone)
            for split in ("retain", "background", "neighbour")}
    if task.retain and not kept["retain"]:
        raise DataError(f"No row to keep is left in the task {task.name}.",
                        "Requests name all of them, and a recipe needs some to hold the model together.",
                        "Give a task with other rows to keep.")
    entities, ids = {row.entity or row.id for row in batch}, {row.id for row in batch}
    probes = {split: found for split, rows in task.probes.items() if (found := tuple(
        row for row in rows if (row.id in ids or (row.entity or row.id) in entities if split == "forget"
                                else row_key(row) not in gone)))}
    return task.model_copy(update={**kept, "forget": tuple(batch), "probes": probes, "notes": ()})


def task_of_reading(task: Task, requested: Sequence[Example]) -> Task:
    """What is asked after every run: all rows of all requests as they were trained, and rows to keep and held out."""
    found = task_of_run(task, requested, requested)
    return found.model_copy(update={"probes": {k: v for k, v in found.probes.items() if k != "forget"}})
