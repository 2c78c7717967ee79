"""Plain likelihood training as the loop's method, for whoever may not see the recipes: relearning attacks."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from expunge.models.scope import Scope
from expunge.models.subject import Subject
from expunge.records.task import Example
from expunge.seeding import derive, stream
from expunge.training.gradients import Gradient, Gradients, Oracle
from expunge.training.loop import Loop, run_loop
from expunge.training.schedule import Schedule
from expunge.training.step import Role, Step, Term, WeightedTerm
from expunge.training.stopping import StopRule
from expunge.training.zeroth import Probing


@dataclass
class Plain:
    """Mean token loss on rows, AdamW with a constant rate. Implements `training.loop.Method`.

    Without a curve over the steps the first n of N steps are the very run of n steps.
    """

    lr: float
    weight_decay: float = 0.01
    clip: float | None = 1.0
    joint: tuple[str, ...] = ()
    apart: bool = False
    separate: bool = False
    forgets: bool = False
    perturbs: bool = False

    def terms(self, step: Step, only: Role | None = None) -> list[WeightedTerm]:
        answers = step.answers("rows")
        return [WeightedTerm("nll", "retain", 1.0, Term(-answers.per_row(answers.logp_N), "tokens", "rows"))]

    def perturb(self, scope: Scope, plain: Oracle, step: int, total: int) -> Gradient:
        return plain()

    def combine(self, found: Gradients, epoch: int) -> Gradient:
        return found.total()

    def around_step(self, scope: Scope, optimizer: torch.optim.Optimizer) -> AbstractContextManager[None]:
        return nullcontext()

    def figures(self) -> dict[str, float]:
        return {}

    def state(self) -> dict[str, Any]:
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Nothing is carried."""

    def probing(self, step: int, total: int) -> Probing | None:
        return None

    def optimizer(self, scope: Scope) -> torch.optim.Optimizer:
        return torch.optim.AdamW(list(scope.parameters.values()), lr=self.lr, weight_decay=self.weight_decay)

    def learning_rate(self, step: int, total: int, steps_per_epoch: int) -> float:
        return self.lr


def train_plainly(subject: Subject, scope: Scope, rows: Sequence[Example], method: Plain, *, steps: int,
                  batch_size: int, seed: int, on_step: Callable[[int], None] | None = None) -> None:
    """Train what `scope` lets move on the answers of `rows`, in place; `on_step` is told steps done, from 1.

    Rows are walked in a new order each epoch. Nothing is kept on disk.
    """
    def order(epoch: int) -> list[dict[str, Example]]:
        walked = list(rows)
        stream(derive(seed, "plain"), epoch).shuffle(walked)
        return [{"rows": r} for r in walked]

    def told(line: dict[str, Any]) -> None:
        if on_step:
            on_step(line["step"])

    if steps < 1:
        return
    schedule = Schedule(order, subject.encoder, batch_size)
    loop = Loop(steps=steps, seed=seed, checkpoint_every=0, stop=StopRule(keep="last"))
    # The loop seeds every step; whoever goes on after an attack should find the generator as it was.
    with tempfile.TemporaryDirectory() as folder, torch.random.fork_rng():
        run_loop(method, subject, scope, schedule, loop, Path(folder), on_step=told)
