"""A deletion as the ledger sees it: which rows, which stages, and what the record says. No torch here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from expunge.errors import DataError, ExpungeError, UsageError
from expunge.exact.ledger import NAME, Ledger, content, name_of
from expunge.records.base import canonical
from expunge.records.run import RunRecord
from expunge.records.task import Example, Task


@dataclass(frozen=True)
class Deletion:
    """What has to be done to a sharded model."""

    before: Ledger
    deleted: tuple[str, ...]
    """Ids of the ledger."""
    texts: Mapping[str, Example]
    """Surviving rows of the shards that are trained again, by their ids."""

    @property
    def first(self) -> dict[int, int]:
        """Shard -> the slice its training goes back to."""
        return self.before.first_slices(self.deleted)

    @property
    def after(self) -> Ledger:
        """The ledger without the rows; its checkpoints are still those of before."""
        rows = {name: p for name, p in self.before.rows.items() if name not in set(self.deleted)}
        return self.before.model_copy(update={"rows": rows})

    def figures(self, after: Ledger) -> dict[str, Any]:
        """What was redone, what is the same to the byte, and which checkpoints still know of the rows."""
        again = {name_of(k, r) for k, first in self.first.items() for r in range(first, after.plan.slices)}
        found = {
            "deleted": list(self.deleted), "saw_them_before": self.before.witnesses(self.deleted),
            "saw_them_after": after.witnesses(self.deleted),
            "retrained": {n: {"before": self.before.checkpoints[n].checksum, "after": c.checksum}
                          for n, c in after.checkpoints.items() if n in again},
            "untouched": {n: {"before": self.before.checkpoints[n].checksum, "after": c.checksum}
                          for n, c in after.checkpoints.items() if n not in again},
            "share_of_work": self.before.share(self.deleted),
            "rows_walked": sum(after.checkpoints[n].visits for n in again), "plan": after.plan.to_json(),
        }
        return found | ({} if self.deleted else {"note": "no checkpoint ever saw these rows: nothing was changed"})


def deletion_of(folder: Path, task: Task, asked: Mapping[str, Any]) -> Deletion:
    """Look a task's forget rows up in the ledger of a model folder.

    Args:
        asked: options of the plan that were typed; they must be those the model was trained with.

    Raises:
        UsageError: the model is not a sharded one, or was trained otherwise.
        DataError: rows that are needed are not in the task, or their text is another.
    """
    if not (folder / NAME).is_file():
        raise UsageError(f"{folder} is no model that sisa can delete from.",
                         f"It holds no {NAME}: it was trained without shards, or was changed by another method since.",
                         'Train one: expunge train BASE --task T --method "sisa(shards=3)" --out ORIGINAL.')
    before = Ledger.read(folder / NAME)
    for name, value in asked.items():
        known = getattr(before.plan, name)
        if canonical(value) != canonical(known):
            raise UsageError(f"sisa({name}={value!r}): this model was trained with {known!r}.",
                             "A deletion repeats the training as it was.", "Leave the options out: --method sisa.")
    deleted = before.find(task.forget)
    shards = before.first_slices(deleted)
    texts = {content(row): row for row in task.training_rows("full")}
    needed = {n: p.content for n, p in before.rows.items() if p.shard in shards and n not in set(deleted)}
    lost = sorted(name for name, said in needed.items() if said not in texts)
    if lost:
        raise DataError(f"{len(lost)} rows that must be trained on again are not in the task, such as {lost[0]}.",
                        f"The rows to forget share their {len(shards)} shards with them.",
                        "Name the task the model was trained on.")
    return Deletion(before, tuple(deleted), {name: texts[said] for name, said in needed.items()})


def taught(model: str | Path, task: Task) -> list[ExpungeError]:
    """Whether a base says itself that it was trained on rows of this task: then no deletion from it is exact."""
    found = next((p / "record.json" for p in (Path(model), Path(model).parent) if (p / "record.json").is_file()), None)
    record = RunRecord.read(found) if found else None
    if record is None:
        return []
    views = ("retain", "background", *(("forget",) if getattr(record.settings, "split", "") != "retain" else ()))
    seen = {record.task_fingerprints[v] for v in views if v in record.task_fingerprints}
    if record.kind != "train" or not seen & {task.fingerprints().get(v) for v in ("forget", "retain", "background")}:
        return []
    return [UsageError(f"{model} was itself trained on rows of this task.",
                       "Its record says so; what the base knows of a row, no deletion takes back.",
                       "Start from a base that never saw them.")]
