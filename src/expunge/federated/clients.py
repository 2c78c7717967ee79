"""Clients: how the rows of a task are divided, and what a client does with its own rows, by `fit`."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from expunge.methods.plan import stop_rule
from expunge.methods.recipe import Stage
from expunge.methods.run_context import RunContext
from expunge.methods.stage import StageMethod
from expunge.models.reference import build_reference, verify
from expunge.models.scope import Scope
from expunge.models.subject import Subject
from expunge.records.settings import TrainSettings
from expunge.records.task import Example, Task
from expunge.seeding import derive, stream
from expunge.training.checkpoint import FitState, Progress, put, take
from expunge.training.fit import fit
from expunge.training.loop import Loop
from expunge.training.monitor import Monitor
from expunge.training.schedule import Schedule
from expunge.training.stopping import StopRule


def name_of(row: Example, by: str) -> str:
    """Rows of one name stay together: those of an entity, or each row by itself."""
    return (row.entity if by == "entity" else "") or row.id


def divide(task: Task, spec: Any) -> list[Task]:
    """The task of every client: its own rows to forget and to keep; rows that nobody trains on are everybody's.

    Learning and unlearning divide by the same rule, so a client unlearns rows that it has learned.

    Args:
        spec: options of a server rule.
    """
    where: dict[str, int] = {}
    for rows, one in ((task.forget, spec.target == "client"), (task.retain + task.background, False)):
        names = [name for name in dict.fromkeys(name_of(row, spec.by) for row in rows) if name not in where]
        if spec.order == "random":
            stream(spec.seed, "clients").shuffle(names)
        where |= {name: spec.client if one else i * spec.clients // len(names) for i, name in enumerate(names)}

    def own(rows: Sequence[Example], client: int) -> tuple[Example, ...]:
        return tuple(row for row in rows if where[name_of(row, spec.by)] == client)

    return [task.model_copy(update={side: own(getattr(task, side), client)
                                    for side in ("forget", "retain", "background")})
            for client in range(spec.clients)]


def rows_of(task: Task, settings: Any) -> tuple[Example, ...]:
    """The rows that a client trains on in a round: when unlearning, those to keep."""
    return task.training_rows(settings.split) if isinstance(settings, TrainSettings) else task.retain


@dataclass
class ClientAnswer:
    """What a client sends back."""

    parameters: Mapping[str, Tensor]
    steps: int = 0
    positions: int = 0
    optimizer: dict[str, Any] = field(default_factory=dict)
    """Stays on the client, for its next round."""
    figures: dict[str, Any] = field(default_factory=dict)


class Client(Protocol):
    """A client as the server sees it. One that raises TimeoutError, or returns None, has not answered."""

    task: Task

    def train(self, theta: Mapping[str, Tensor], number: int, optimizer: Mapping[str, Any]) -> ClientAnswer | None:
        """Train on its rows from the weights `theta`, in round `number` (from 0)."""

    def unlearn(self, theta: Mapping[str, Tensor]) -> ClientAnswer | None:
        """Unlearn its forget rows, from the weights `theta`."""


@contextmanager
def held_near(scope: Scope, mu: float) -> Any:
    """Adds mu/2 * ||w - w0||^2 to the loss, where w0 is a frozen copy of the weights as they are now."""
    start, own = {n: p.detach().clone() for n, p in scope.parameters.items()}, scope.penalty

    def penalty() -> Tensor:
        term = mu / 2 * torch.stack([(p - start[n]).square().sum() for n, p in scope.parameters.items()]).sum()
        before = own()
        return term if before is None else before + term

    scope.penalty = penalty  # type: ignore[method-assign]
    try:
        yield
    finally:
        del scope.penalty


class RoundMethod(StageMethod):
    """A stage whose learning rate follows a schedule over all rounds together."""

    whole = 0

    def learning_rate(self, step: int, total: int, steps_per_epoch: int) -> float:
        return super().learning_rate(step, self.whole or total, steps_per_epoch)


@dataclass(frozen=True, kw_only=True)
class Workplace:
    """What the clients of this process share: the model that they train in turn, and what they are asked to do."""

    unlearner: Stage
    trainer: Stage
    """What a round trains."""
    subject: Subject
    scope: Scope
    run: RunContext
    rounds: int
    epochs: float
    """Passes over a client's rows in a round that follows unlearning."""
    mu: float = 0.0
    keeps: bool = False
    """Whether clients keep optimizer and schedule from round to round."""

    @property
    def settings(self) -> Any:
        return self.run.settings

    def near(self) -> AbstractContextManager[Any]:
        return held_near(self.scope, self.mu) if self.mu else nullcontext()

    def steps(self, steps_per_epoch: int) -> int:
        """Steps of a client in all rounds."""
        if isinstance(self.settings, TrainSettings):
            return self.trainer.total_steps(self.settings, steps_per_epoch)
        return self.rounds * max(round(self.epochs * steps_per_epoch), 1)


class LocalClient:
    """A client in this process. It uses the shared model while it works, and keeps nothing of it."""

    def __init__(self, task: Task, work: Workplace) -> None:
        self.task, self._work = task, work

    def train(self, theta: Mapping[str, Tensor], number: int, optimizer: Mapping[str, Any]) -> ClientAnswer:
        work, settings = self._work, self._work.settings
        put(work.scope.parameters, theta)
        seed = settings.seed if work.keeps or not number else derive(settings.seed, "round", number)
        method = RoundMethod(work.trainer, work.subject, self.task, (), rows_of(self.task, settings), seed)
        schedule = Schedule(method.order, work.subject.encoder, settings.batch_size, settings.accumulate,
                            repeats=work.trainer.repeats)
        total = work.steps(schedule.steps_per_epoch)
        first, last = (round(total * n / work.rounds) for n in (number, number + 1))
        if work.keeps:
            method.whole, start = total, first
            state = FitState(Progress(step=first), dict(optimizer))
        else:
            start, last, state = 0, last - first, FitState()
        with work.near():
            ended = fit(method, work.subject, work.scope, schedule, self._loop(last, seed), state)
        return ClientAnswer(take(work.scope.parameters), last - start, ended.progress.positions,
                      ended.optimizer if work.keeps else {})

    def unlearn(self, theta: Mapping[str, Tensor]) -> ClientAnswer:
        work, task, settings = self._work, self.task, self._work.settings
        subject, stage = work.subject, copy.deepcopy(self._work.unlearner)
        put(work.scope.parameters, theta)
        if stage.edit is not None:
            figures = stage.edit.apply(subject, task, settings.seed)
            return ClientAnswer(take(work.scope.parameters), 0, figures.get("positions", 0), figures=figures)
        for part in stage.builders.values():
            part.made = part.prepare(subject, task, work.run)
        method = StageMethod(stage, subject, task, task.forget, task.retain, settings.seed)
        schedule = Schedule(method.order, subject.encoder, settings.batch_size, settings.accumulate, method.rollout,
                            stage.repeats)
        steps, (count, sides) = stage.total_steps(settings, schedule.steps_per_epoch), stage.likeliest
        reference = build_reference(subject, stage.reference, schedule.token_rows(steps, stage.kept_sides),
                                    likeliest=(count, schedule.token_rows(steps, sides)))
        monitor = Monitor(subject, task, settings.seed)
        aim = monitor.never_trained() if settings.forget_target is None else settings.forget_target
        loop = self._loop(steps, settings.seed, settings.steps_between_readings(steps, schedule.steps_per_epoch),
                          stop_rule(stage, settings, aim, subject.outcomes))
        done = fit(method, subject, work.scope, schedule, loop, reference=reference, monitor=monitor).progress
        figures = {"reason": done.reason, "steps": done.step, "reference": verify(reference), "start": done.start,
                   "kept": done.best or {}, "alarms": done.alarms}
        return ClientAnswer(take(work.scope.parameters), done.step, done.positions, figures=figures)

    def _loop(self, steps: int, seed: int, eval_every: int = 0, stop: StopRule | None = None) -> Loop:
        return Loop(steps=steps, seed=seed, eval_every=eval_every, stop=stop or StopRule(keep="last", utility_floor=0),
                    gradient_checkpointing=self._work.settings.gradient_checkpointing)
