"""What the studies on a real model share: one run and its audit, with the processor time that the run took."""

from __future__ import annotations

import resource
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import expunge
from expunge.console import Reporter
from expunge.records.base import read_json, write_json
from expunge.records.run import RunRecord
from expunge.records.score import Audit
from expunge.records.task import Task


def busy() -> float:
    """Seconds of processor time so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_utime + resource.getrusage(resource.RUSAGE_SELF).ru_stime


def forgotten(place: Path, original: Path, task: Task, recipe: str, *, seed: int, suite: str,
              retrained: Sequence[Path] = (), **options: Any) -> tuple[RunRecord, Audit, float]:
    """The record, the audit and the processor seconds of a run in `place`; an interrupted one goes on."""
    quiet, begun = Reporter(quiet=True), busy()
    record = expunge.forget(original, task=task, method=recipe, out=place, seed=seed, batch_size=4, keep="last",
                            eval_every=1000, checkpoint_every=20, resume=place.exists(), reporter=quiet, **options)
    if not (place / "seconds.json").exists():  # a finished run is not measured again
        write_json(place / "seconds.json", {"cpu_s": busy() - begun})
    found = expunge.audit(place, task=task, original=original, retrained=retrained, suite=suite, seed=seed,
                          resamples=200, resume=(place / "audit.json").exists(), reporter=quiet)
    assert isinstance(record, RunRecord) and isinstance(found, Audit) and found.verdict is not None
    return record, found, read_json(place / "seconds.json")["cpu_s"]
