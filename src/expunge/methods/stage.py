"""A recipe stage as the loop sees it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from expunge.data.encoder import Batch
from expunge.methods._lib.trimming import Window
from expunge.methods._lib.weighing import WeighingSampler, weighed
from expunge.methods.base import Perturb, Stop, TermPlugin
from expunge.methods.recipe import Stage
from expunge.models.scope import Scope
from expunge.models.subject import Subject
from expunge.records.task import Example, Task
from expunge.seeding import derive, stream
from expunge.training.gradients import BOTH, Gradient, Gradients, Oracle, Tamper
from expunge.training.method import Method, RetainLoss
from expunge.training.schedule import Draw
from expunge.training.step import Role, Step, WeightedTerm
from expunge.training.zeroth import Probing


class StageMethod(Method):
    """A stage, on rows of a task.

    Args:
        stage: the plug-ins.
        subject: the model they change (perturbations need it).
        task: for builders that look at other rows.
        forget, retain: the rows to draw from; `forget` is empty when a stage only trains.
        seed: of draws and builders.
    """

    def __init__(self, stage: Stage, subject: Subject, task: Task, forget: Sequence[Example],
                 retain: Sequence[Example], seed: int) -> None:
        self._stage, self._subject, self._task, self._seed = stage, subject, task, seed
        self._rows = stage.sides(task, forget, retain)
        self.forgets = stage.objective is not None and stage.objective.forgets
        # A combiner may carry state, and the stage may be run again.
        self._combine = type(stage.combine)(stage.combine.spec)
        self.separate = stage.combine.separate
        self._retaken = 0
        self._perturb = [p for p in stage.perturb if not p.idle] if stage.objective is not None else []
        self.perturbs = bool(self._perturb)
        self._window = None if stage.trim is None or stage.trim.idle else Window(stage.trim)
        self.period = 1 if self._window is None else self._window.trim.window
        self._stop = None if stage.stop is None else type(stage.stop)(stage.stop.spec)
        if self._stop is not None:
            self._stop.begin(subject, task, self._rows["forget"])
        self.clip = getattr(stage.optimizer.spec, "clip", None)
        parts = (*((stage.objective,) if stage.objective else ()), *stage.retain)
        self._parts: list[tuple[Any, Role]] = [(p, "retain" if p.card.kind == "retain" else "forget") for p in parts]
        reads = [{s for p, r in self._parts if r == role for s in p.reads} for role in BOTH]
        self.disjoint = len({role for _, role in self._parts}) == 2 and reads[0].isdisjoint(reads[1])
        # Where each role's gradient is asked for, its backward should see only its own rows.
        one_by_one = self.separate or self.perturbs
        self.shared_pass = () if one_by_one else tuple(dict.fromkeys(s for p in parts for s in p.reads))

    def order(self, epoch: int) -> list[dict[str, Example]]:
        """The draws of an epoch with every side its terms read."""
        draws = []
        for i, draw in enumerate(self._stage.sampler.order(self._rows, epoch, self._seed)):
            sides: dict[str, Example] = {}
            if self._stage.objective:
                rng = stream(self._seed, "sides", epoch, i)
                sides |= self._stage.objective.sides(draw["forget"], self._task, rng)
                for part in self._perturb:
                    sides |= part.sides(self._task, stream(self._seed, part.card.name, epoch, i))
                    sides |= {s: draw[s] for s in part.reads if s not in sides}
            if self._stage.reads_retain:
                sides["retain"] = draw["retain"]
            for term in self._stage.retain:
                sides |= term.sides(self._task, stream(self._seed, term.card.name, epoch, i))
            draws.append(sides)
        return draws

    @property
    def rollout(self) -> Callable[[int, Sequence[Draw]], Sequence[Draw]] | None:
        """What makes rows from the current model before a step; None where nothing does."""
        objective = self._stage.objective
        if objective is None or not objective.rolls_out:
            return None

        def made(step: int, draws: Sequence[Draw]) -> Sequence[Draw]:
            with self._subject.evaluating():
                return objective.rollout(self._subject, draws, derive(self._seed, "rollout", step))

        return made

    def begin(self, step: int, total: int) -> None:
        """Tell the terms where in the run they are, and let the stop ask the model."""
        for part, _ in self._parts:
            part.begin(step, total)
            if type(part).before_step is not TermPlugin.before_step:
                with self._subject.evaluating():
                    part.before_step(self._subject, self._task, step)
        if self._stop is not None:
            self._stop.before_step(self._subject)

    def terms(self, step: Step, only: Role | None = None) -> list[WeightedTerm]:
        """All named terms with role and weight. Names stay unique: two plug-ins never share one."""
        found = [WeightedTerm(name, role, part.spec.weight, term)
                 for part, role in self._parts if only in (None, role) for name, term in part.terms(step).items()]
        sampler = self._stage.sampler
        if isinstance(sampler, WeighingSampler) and self._stage.objective is not None and only != "retain":
            found = weighed(sampler.factors(), step, found)
        return found if self._stop is None or only == "retain" else self._stopped(self._stop, step, found)

    @staticmethod
    def _stopped(stop: Stop, step: Step, terms: list[WeightedTerm]) -> list[WeightedTerm]:
        """The terms of forget rows that are done count 0; rows of other sides stand in the order of the forget rows."""
        answers = step.answers("forget")
        weights_B = stop.weights([row.id for row in answers.batch.rows],
                                 -answers.row_means(answers.detached_logp()))
        return [t if t.role == "retain" else replace(t, term=replace(t.term, sum_B=t.term.sum_B * weights_B))
                for t in terms]

    def perturb(self, scope: Scope, plain: Oracle, step: int, total: int) -> Gradient:
        """The forget gradient under every perturbation: the first named is the outermost."""
        oracle = plain
        for part in reversed(self._perturb):
            oracle = partial(self._through, part, scope, oracle, step, total)
        return oracle()

    def _through(self, part: Perturb, scope: Scope, inner: Oracle, step: int, total: int,
                 tamper: Tamper | None = None) -> Gradient:
        """What `part` makes of `inner`, passing on what those outside it do to every micro-batch."""
        outer = tamper

        def plain(tamper: Tamper | None = None) -> Gradient:
            both = [t for t in (outer, tamper) if t is not None]
            return inner(partial(_each, both) if both else None)

        seed = derive(self._seed, part.card.name, step)
        return part.gradient(self._subject, scope, plain, step=step, total=total, seed=seed)

    def ready(self, epoch: int, loss: RetainLoss, micro: Sequence[Mapping[str, Batch]]) -> None:
        """Tell the combiner how to read the retain loss again: of this step's rows, and of the last epoch's."""
        if self.separate and self._stage.retain:
            self._combine.ready(epoch, partial(loss, micro), lambda: loss(self._retain_batches(epoch - 1)))

    def again(self, scope: Scope, take: Callable[[], Gradients]) -> None:
        """Tell the combiner how to take both gradients again, and count what that costs."""
        self._retaken = 0

        def both() -> tuple[Gradient, Gradient]:
            found = take()
            self._retaken += found.positions
            return found.forget, found.retain

        if self.separate:
            self._combine.again(scope, both)

    def _retain_batches(self, epoch: int) -> list[Mapping[str, Batch]]:
        encoder, draws = self._subject.encoder, self.order(epoch)
        sides = dict.fromkeys(side for p in self._stage.retain for side in (p.reads if p.own_rows else ("retain",)))
        rows = {side: [encoder.encode(draw[side]) for draw in draws] for side in sides}
        return [{side: encoder.collate([rows[side][i] for i in part]) for side in sides}
                for part in encoder.batches(next(iter(rows.values())))]

    def combine(self, grads: Gradients, epoch: int) -> Gradient:
        """One update from the step's gradients."""
        if not self.separate:
            return grads.total()
        self._combine.observe(grads.losses, epoch)
        return self._combine(grads.forget, grads.retain)

    def around_step(self, scope: Scope, optimizer: torch.optim.Optimizer) -> AbstractContextManager[None]:
        if self._window is not None:
            self._window.open(scope)
        return self._combine.around_step(scope, optimizer)

    def settle(self, scope: Scope, optimizer: torch.optim.Optimizer, step: int, total: int) -> bool:
        """At the end of a window, and of the run, trim what it changed."""
        if self._window is None or ((step + 1) % self.period and step + 1 < total):
            return False
        self._window.close(scope, optimizer, derive(self._seed, "trim", step))
        return True

    def spent(self) -> int:
        """Positions of the gradients that perturbations took themselves in this step."""
        return sum(part.spent for part in self._perturb)

    def figures(self) -> dict[str, float]:
        named = {name: value for term, _ in self._parts for name, value in term.figures().items()}
        held = self._window.figures() if self._window is not None else {}
        return named | self._combine.figures() | held | (self._stop.figures() if self._stop is not None else {})

    def state(self) -> dict[str, Any]:
        kept = {part.card.name: held for part in self._perturb if (held := part.state())}
        terms = {part.card.name: held for part, _ in self._parts if (held := part.state())}
        stop = self._stop.state() if self._stop is not None else {}
        window = self._window.start if self._window is not None else {}
        return self._combine.state() | {name: held for name, held in (("perturb", kept), ("stop", stop),
                                                                      ("window", window), ("terms", terms)) if held}

    def restore(self, state: Mapping[str, Any]) -> None:
        for kind, parts in (("perturb", self._perturb), ("terms", [part for part, _ in self._parts])):
            for part in parts:
                if part.card.name in state.get(kind, {}):
                    part.restore(state[kind][part.card.name])
        if self._stop is not None and "stop" in state:
            self._stop.restore(state["stop"])
        if self._window is not None:
            self._window.start = dict(state.get("window", {}))
        self._combine.restore(state)

    def probing(self, step: int, total: int) -> Probing | None:
        return self._stage.optimizer.probing(step, total)

    def optimizer(self, scope: Scope) -> torch.optim.Optimizer:
        return self._stage.optimizer.build_for(scope)

    def learning_rate(self, step: int, total: int, steps_per_epoch: int) -> float:
        return self._stage.optimizer.learning_rate(step, total, steps_per_epoch)


def _each(tampers: Sequence[Tamper], step: Step) -> None:
    for tamper in tampers:
        tamper(step)
