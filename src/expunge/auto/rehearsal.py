"""A rehearsal: entities that the model never saw are taught to a scratch copy, which then has to forget them.

Beside it stands a twin, trained in the same way without them. So for these entities both are known: how a model answers
that was taught them, and how one answers that never saw them. What a recipe does to them is judged as an audit with a
retrained model judges it. Facts taught by a short fine-tuning sit less deep than those of a long training, so the
rehearsal is easier than the task; it shows which recipes fail, and does not prove that one succeeds.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from expunge import api
from expunge.auto.readings import TrialReadings, readings
from expunge.console import Reporter
from expunge.models.load import load_subject
from expunge.records.base import read_json, write_json
from expunge.records.settings import RunSettings
from expunge.records.task import Example, Task
from expunge.runs import device
from expunge.training.monitor import Monitor

LEAST = 4
"""Entities below which a rehearsal says nothing."""
KNOWN = 0.75
"""Share of the way from never seen to the forget rows of the original that taught rows must reach."""
EPOCHS = 6
TRIES = 3
FASTER = 3.0
"""The next learning rate where the rows were not learned, as a multiple of the one before."""


@dataclass(frozen=True)
class Rehearsal:
    """The scratch copy, its twin, and the rows."""

    task: Task
    taught: Path
    twin: Path
    target: float
    """Probability of the rows before they were taught, which stopping rules aim at."""
    told: dict[str, object]
    """For the record."""


def rehearsal_task(task: Task) -> Task | str:
    """Holdout entities as those to forget; or why there are too few.

    Holdout rows stand on neither side: no row may be both taught and a control.
    """
    entities = list(dict.fromkeys(row.entity or row.id for row in task.holdout))
    wanted = len({row.entity or row.id for row in task.forget})
    if len(entities) < LEAST:
        return (f"There are {len(entities)} entities in the holdout rows, and a rehearsal needs {LEAST}: it teaches "
                "them to a scratch copy.")
    chosen = {*entities[:max(wanted, LEAST)]}
    rows = tuple(row for row in task.holdout if (row.entity or row.id) in chosen)
    kept = _as_many(task.retain, 3 * len(rows))
    return Task(name=task.name, forget=rows, retain=kept or task.background, background=task.forget,
                generation_tokens=task.generation_tokens, template=task.template)


def _as_many(rows: tuple[Example, ...], count: int) -> tuple[Example, ...]:
    """Rows of all entities in turn, about so many: the scratch copy is trained on few rows, since it costs time."""
    return rows[:: max(len(rows) // max(count, 1), 1)][:count]


def make_rehearsal(model: str | Path, task: Task, settings: RunSettings, rate: float | None, out: Path,
                   reporter: Reporter) -> Rehearsal | str:
    """Teach the scratch copy and its twin; finished ones are kept. Or why there is no rehearsal.

    Args:
        rate: learning rate that the model was trained with, where that is known.
    """
    made = rehearsal_task(task)
    if isinstance(made, str):
        return made
    began, notes = time.perf_counter(), out / "taught.json"
    before = _probability(model, made, settings)
    if notes.exists():
        stored = read_json(notes)
        told, lr = {k: v for k, v in stored.items() if k != "place"}, float(stored["lr"])
    else:
        aim = before + KNOWN * (_probability(model, task, settings) - before)
        lr, reached = (rate or 3e-5) / 3, 0.0
        for attempt in range(TRIES):
            _teach(model, made, "full", lr, settings, out / "taught", reporter, anew=attempt > 0)
            reached = _probability(out / "taught", made, settings)
            if reached >= aim or attempt == TRIES - 1:
                break
            lr *= FASTER
        if reached < aim:
            return (f"The scratch copy did not learn the holdout rows (probability {before:.2f} to {reached:.2f}, "
                    f"{aim:.2f} wanted), so there is nothing to rehearse on.")
        _teach(model, made, "retain", lr, settings, out / "twin", reporter)
        told = {"entities": len({r.entity or r.id for r in made.forget}), "rows": len(made.forget), "lr": lr,
                "before": round(before, 4), "taught": round(reached, 4),
                "seconds": round(time.perf_counter() - began, 1)}
        write_json(notes, told)
    return Rehearsal(made, out / "taught", out / "twin", before, told)


def _teach(model: str | Path, task: Task, split: str, lr: float, settings: RunSettings, place: Path,
           reporter: Reporter, anew: bool = False) -> None:
    api.train(model, task=task, out=place, split=split, lr=lr, epochs=EPOCHS, seed=settings.seed,
              batch_size=settings.batch_size, max_length=settings.max_length, resume=place.exists() and not anew,
              overwrite=anew, reporter=Reporter(quiet=True))
    reporter.note(f"Rehearsal: a copy trained {'with' if split == 'full' else 'without'} {len(task.forget)} rows that "
                  "the model never saw.")


def _probability(model: str | Path, task: Task, settings: RunSettings) -> float:
    subject = load_subject(model, template=task.template, max_length=settings.max_length, device=device())
    return Monitor(subject, task, settings.seed)()["forget"]


def rehearse(rehearsal: Rehearsal, recipe: str, settings: RunSettings, suite: str,
             place: Path) -> tuple[str, TrialReadings]:
    """The verdict, and what is left, of a recipe on the scratch copy."""
    quiet = Reporter(quiet=True)
    api.forget(rehearsal.taught, task=rehearsal.task, method=recipe, out=place, resume=place.exists(), reporter=quiet,
               settings=RunSettings.build(settings, forget_target=rehearsal.target))
    found = api.audit(place, task=rehearsal.task, original=rehearsal.taught, retrained=[rehearsal.twin], suite=suite,
                      seed=settings.seed, resume=(place / "audit.json").exists(), reporter=quiet)
    assert not isinstance(found, dict)
    return (found.verdict.outcome if found.verdict else "undecided"), readings(found, place)


__all__ = ["Rehearsal", "make_rehearsal", "rehearsal_task", "rehearse"]
