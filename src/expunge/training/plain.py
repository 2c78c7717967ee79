"""Plain likelihood training without a recipe; used by attacks, which must not import methods."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from expunge.models.scope import Scope
from expunge.models.subject import Subject
from expunge.records.task import Example
from expunge.seeding import derive, stream
from expunge.training.fit import fit
from expunge.training.loop import Loop
from expunge.training.method import Method
from expunge.training.schedule import Schedule
from expunge.training.step import Role, Step, Term, WeightedTerm


class Plain(Method):
    """Mean token loss on rows, AdamW with a constant rate.

    With a constant rate the first n of N steps equal a run of n steps.
    """

    clip: float | None = 1.0

    def __init__(self, lr: float, weight_decay: float = 0.01) -> None:
        self.lr, self.weight_decay = lr, weight_decay

    def terms(self, step: Step, only: Role | None = None) -> list[WeightedTerm]:
        answers = step.answers("rows")
        return [WeightedTerm("nll", "retain", 1.0, Term(-answers.per_row(answers.logp_N), "tokens", "rows"))]

    def optimizer(self, scope: Scope) -> torch.optim.Optimizer:
        return torch.optim.AdamW(list(scope.parameters.values()), lr=self.lr, weight_decay=self.weight_decay)

    def learning_rate(self, step: int, total: int, steps_per_epoch: int) -> float:
        return self.lr


def train_plainly(subject: Subject, scope: Scope, rows: Sequence[Example], method: Plain, *, steps: int,
                  batch_size: int, seed: int, on_step: Callable[[int], None] | None = None) -> None:
    """Train on the answers of `rows`, in a new order each epoch; `on_step` receives the steps done, from 1."""
    def order(epoch: int) -> list[dict[str, Example]]:
        shuffled = list(rows)
        stream(derive(seed, "plain"), epoch).shuffle(shuffled)
        return [{"rows": r} for r in shuffled]

    def report(line: dict[str, Any]) -> None:
        if on_step:
            on_step(line["step"])

    if steps > 0:
        fit(method, subject, scope, Schedule(order, subject.encoder, batch_size), Loop(steps=steps, seed=seed),
            on_step=report)
