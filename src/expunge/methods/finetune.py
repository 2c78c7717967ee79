"""Plain likelihood training of a subject on rows: reinforced models, assistants, shards."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from expunge.methods.recipe import training_stage
from expunge.methods.stage import StageMethod
from expunge.models.load import float32_master
from expunge.models.scope import Scope
from expunge.models.subject import Subject
from expunge.progress import Announce, silent
from expunge.records.task import Example, Task
from expunge.training.loop import Loop, Method, Progress, run_loop
from expunge.training.schedule import Schedule
from expunge.training.stopping import StopRule

LAST = StopRule(keep="last")


def finetune(subject: Subject, rows: Sequence[Example], *, lr: float, epochs: float | None = None,
             steps: int | None = None, batch_size: int = 8, accumulate: int = 1, seed: int = 0,
             recipe: str = "all + adamw(weight_decay=0)", folder: Path | None = None, title: str = "finetune",
             announce: Announce = silent) -> Progress:
    """Train `subject` in place on the answers of `rows`, through the one loop.

    Args:
        epochs, steps: the length; steps win.
        recipe: modifiers such as scope and optimizer; an adapter is left on the model.
        folder: where a checkpoint is kept, so that a killed run goes on; a temporary one when left out.
    """
    stage = training_stage(f"retain_nll + {recipe}").with_learning_rate(lr)
    if not stage.scope.adapter:
        float32_master(subject)
    task = Task(name=title, forget=(), retain=tuple(rows))
    method = StageMethod(stage, subject, task, (), tuple(rows), seed)
    schedule = Schedule(method.order, subject.encoder, batch_size, accumulate)
    total = steps or max(round((epochs or 1.0) * schedule.steps_per_epoch), 1)
    scope = stage.scope.apply(subject)
    return to_the_end(method, subject, scope, schedule, Loop(steps=total, seed=seed, stop=LAST), folder,
                      announce(title, total))


def to_the_end(method: Method, subject: Subject, scope: Scope, schedule: Schedule, loop: Loop, folder: Path | None,
               tick: Callable[..., None]) -> Progress:
    """Run the loop without a monitor, in a temporary folder when none is given, telling `tick` of every step."""
    def told(line: dict[str, Any]) -> None:
        tick(1)

    with tempfile.TemporaryDirectory() as place:
        return run_loop(method, subject, scope, schedule, loop, folder or Path(place), on_step=told)
