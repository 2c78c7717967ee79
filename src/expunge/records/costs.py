"""What a run cost, as a share of retraining without the forget rows."""

from __future__ import annotations

from pathlib import Path

from expunge.records.run import RunFolder, RunRecord
from expunge.records.task import Task


def retraining_positions(model: str | Path, task: Task) -> float | None:
    """Positions that a training without the forget rows takes a gradient at, from the record of the training that made
    `model` on all of them; None where no such record is there.

    The rows to forget are taken to be as long as the others.
    """
    place = Path(model)
    folder = next((f for f in (place, place.parent) if RunFolder(f).record.is_file()), None)
    if folder is None:
        return None
    record, mine = RunRecord.read(RunFolder(folder).record), task.fingerprints()
    same = all(record.task_fingerprints.get(view) == mine.get(view) for view in ("forget", "retain", "background"))
    if record.kind != "train" or record.status != "finished" or not same or (
            getattr(record.settings, "split", "") != "full"):
        return None
    known = record.timing.get("positions") or record.timing.get("tokens_per_s", 0) * record.timing.get("train_s", 0)
    return known * len(task.training_rows("retain")) / len(task.training_rows("full")) or None


def share_of_retraining(record: RunRecord, task: Task) -> dict[str, float]:
    """`of_retraining`: positions of the run over those of retraining; empty where either is not known."""
    spent, whole = record.timing.get("positions"), retraining_positions(record.model, task)
    return {} if spent is None or whole is None else {"of_retraining": round(spent / whole, 4)}
