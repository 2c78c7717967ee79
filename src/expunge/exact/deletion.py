"""A deletion planned from the ledger: its rows, the stages to retrain, and the figures for the record. No torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from expunge.errors import DataError, ExpungeError, UsageError
from expunge.exact.ledger import NAME, Ledger, ShardStage, content
from expunge.records.base import canonical
from expunge.records.run import RunRecord
from expunge.records.task import Example, Task


@dataclass(frozen=True)
class Deletion:
    """The rows to delete from a sharded model and the rows to train again."""

    before: Ledger
    deleted: tuple[str, ...]
    """Ids in the ledger."""
    texts: Mapping[str, Example]
    """Remaining rows of the shards that are trained again, and those that a post-processor reads; by id."""

    @property
    def again(self) -> list[ShardStage]:
        """The stages that are trained again."""
        return self.before.again(self.deleted)

    @property
    def after(self) -> Ledger:
        """The ledger without the deleted rows; checkpoints that are trained again are still the old ones."""
        return self.before.without(self.deleted)

    def figures(self, after: Ledger) -> dict[str, Any]:
        """Figures for the record: retrained, dropped and unchanged checkpoints, and those that saw the rows."""
        again = {stage.name for stage in self.again}
        figures = {
            "deleted": list(self.deleted), "saw_them_before": self.before.checkpoints_with(self.deleted),
            "saw_them_after": after.checkpoints_with(self.deleted),
            "retrained": {n: {"before": self.before.checkpoints[n].checksum if n in self.before.checkpoints else None,
                              "after": c.checksum} for n, c in after.checkpoints.items() if n in again},
            "untouched": {n: {"before": self.before.checkpoints[n].checksum, "after": c.checksum}
                          for n, c in after.checkpoints.items() if n not in again},
            "share_of_work": self.before.share(self.deleted),
            "rows_walked": sum(after.checkpoints[n].visits for n in again), "plan": after.plan.to_json(),
        }
        if after.plan.orders:
            served = {name for run in after.serving() for name in after.members(run[-1])}
            figures |= {"dropped": sorted(set(self.before.checkpoints) - set(after.checkpoints)),
                        "serving": {run[0].shard: {"order": run[0].order, "stages": len(run)}
                                    for run in after.serving()},
                        "rows_in_no_served_stage": len(after.rows) - len(served)}
        return figures | ({} if self.deleted else {"note": "no checkpoint saw these rows, so nothing was changed"})


def deletion_of(folder: Path, task: Task, options: Mapping[str, Any], method: str = "sisa") -> Deletion:
    """Look a task's forget rows up in the ledger of a model folder.

    Args:
        options: options of the plan that were given; they must equal those the model was trained with.
        method: name of the plug-in that deletes.

    Raises:
        UsageError: the model is not sharded, or was trained with other options; or no row would be left to serve.
        DataError: rows that are needed are not in the task, or their text differs.
    """
    if not (folder / NAME).is_file():
        raise UsageError(f"{folder} is not a model that {method} can delete from.",
                         f"It holds no {NAME}: it was trained without shards, or another method changed it since.",
                         f'Train one: expunge train BASE --task T --method "{method}(shards=3)" --out ORIGINAL.')
    before = Ledger.read(folder / NAME)
    for name, value in options.items():
        known = before.plan.option(name)
        if canonical(value) != canonical(known):
            raise UsageError(f"{method}({name}={value!r}): this model was trained with {known!r}.",
                             "A deletion repeats the original training.", f"Leave the options out: --method {method}.")
    deleted = before.find(task.forget)
    again = before.again(deleted)
    if before.plan.orders and not again and not before.without(deleted).serving():
        raise UsageError("No stage would be left that could answer.",
                         "The rows to forget touch every order of every shard, and too few others are left.",
                         "Serve the base model; or train anew on the rows that stay.")
    texts = {content(row): row for row in task.training_rows("full")}
    after = before.without(deleted)
    needed = {name: after.rows[name].content for stage in again for name in after.members(stage)}
    needed |= {name: after.rows[name].content for name in after.apart()}
    missing = sorted(name for name, digest in needed.items() if digest not in texts)
    if missing:
        raise DataError(f"{len(missing)} rows that must be trained on again are not in the task, such as {missing[0]}.",
                        f"The rows to forget share their {len({s.shard for s in again})} shards with them.",
                        "Name the task the model was trained on.")
    return Deletion(before, tuple(deleted), {name: texts[digest] for name, digest in needed.items()})


def trained_on_task(model: str | Path, task: Task,
                    rows: Sequence[str] = ("forget", "retain", "background")) -> list[ExpungeError]:
    """A problem if the record of a base says that it was trained on these rows of a task: no deletion is exact then."""
    path = next((p / "record.json" for p in (Path(model), Path(model).parent) if (p / "record.json").is_file()), None)
    record = RunRecord.read(path) if path else None
    if record is None:
        return []
    views = ("retain", "background", *(("forget",) if getattr(record.settings, "split", "") != "retain" else ()))
    seen = {record.task_fingerprints[v] for v in views if v in record.task_fingerprints}
    if record.kind != "train" or not seen & {task.fingerprints().get(v) for v in rows}:
        return []
    return [UsageError(f"{model} was itself trained on rows of this task.",
                       "Its record says so; a deletion cannot remove what the base learned from a row.",
                       "Start from a base that never saw them.")]
