"""Plain likelihood training of a subject on rows, with the recipe's scopes and optimizers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from expunge.methods.recipe import training_stage
from expunge.methods.stage import StageMethod
from expunge.models.load import float32_master
from expunge.models.subject import Subject
from expunge.progress import Announce, silent
from expunge.records.settings import LoopSettings
from expunge.records.task import Example, Task
from expunge.training.checkpoint import Progress
from expunge.training.fit import fit
from expunge.training.loop import Loop
from expunge.training.schedule import Schedule


def finetune(subject: Subject, rows: Sequence[Example], *, recipe: str = "all + adamw(weight_decay=0)",
             folder: Path | None = None, title: str = "finetune", announce: Announce = silent,
             settings: LoopSettings | None = None, **options: Any) -> Progress:
    """Train `subject` in place on the answers of `rows`.

    Args:
        recipe: modifiers such as scope and optimizer; an adapter is left on the model.
        folder: where a checkpoint is kept, so that a killed run goes on; nothing is kept when left out.
        settings, options: `LoopSettings`, or its fields by name: lr, epochs (1 when neither they nor steps are
            given), steps, batch_size, accumulate, seed.
    """
    settings = LoopSettings.build(settings, **options)
    stage = training_stage(f"retain_nll + {recipe}").with_learning_rate(settings.lr)
    if not stage.scope.adapter:
        float32_master(subject)
    task = Task(name=title, forget=(), retain=tuple(rows))
    method = StageMethod(stage, subject, task, (), tuple(rows), settings.seed)
    schedule = Schedule(method.order, subject.encoder, settings.batch_size, settings.accumulate)
    loop = Loop(steps=settings.total_steps(schedule.steps_per_epoch), seed=settings.seed)
    tick = announce(title, loop.steps)
    return fit(method, subject, stage.scope.apply(subject), schedule, loop, folder=folder,
               on_step=lambda line: tick(1)).progress
