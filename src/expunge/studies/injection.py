"""One row put into a stream of others: every step holds it once, for a number of steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from expunge.methods.recipe import training_stage
from expunge.methods.samplers.paired import Paired
from expunge.methods.stage import StageMethod
from expunge.models.subject import Subject
from expunge.records.task import Example, Task
from expunge.seeding import stream
from expunge.training.fit import fit
from expunge.training.loop import Loop
from expunge.training.schedule import Schedule


class Injecting(Paired):
    """Rows in a new order each epoch, in whole batches, the first row of each replaced by one and the same."""

    def __init__(self, row: Example | None, batch_size: int) -> None:
        super().__init__()
        self._row, self._size = row, batch_size

    def order(self, rows: Mapping[str, Sequence[Example]], epoch: int, seed: int) -> list[dict[str, Example]]:
        others = list(rows["retain"])
        stream(seed, "stream", epoch).shuffle(others)
        whole = max(len(others) // self._size, 1) * self._size
        return [{"retain": self._row if i % self._size == 0 and self._row is not None else row}
                for i, row in enumerate(others[:whole])]


def inject(subject: Subject, row: Example | None, others: Sequence[Example], *, trim: str = "", steps: int, lr: float,
           batch_size: int, seed: int, on_step: Callable[[int], None] | None = None) -> None:
    """Train `subject` in place for some steps at a constant rate; without a row on the others alone.

    Args:
        trim: of the change over all these steps, such as "ignore_k".
        on_step: receives the steps done, from 1. Within the window of a trim it sees untrimmed weights.
    """
    modifiers = f" + {trim}" if trim else ""
    stage = training_stage(f"retain_nll + adamw(lr={lr!r}, warmup=0, schedule='constant', weight_decay=0){modifiers}")
    stage = replace(stage, sampler=Injecting(row, batch_size))
    task = Task(name="stream", forget=(), retain=tuple(others))
    method = StageMethod(stage, subject, task, (), task.retain, seed)

    def report(line: dict[str, Any]) -> None:
        if on_step:
            on_step(line["step"])

    fit(method, subject, stage.scope.apply(subject), Schedule(method.order, subject.encoder, batch_size),
        Loop(steps=steps, seed=seed), on_step=report)
