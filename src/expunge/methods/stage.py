"""A recipe stage as the loop sees it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager

import torch

from expunge.methods.recipe import Stage
from expunge.models.scope import Scope
from expunge.models.subject import Subject
from expunge.records.task import Example, Task
from expunge.seeding import stream
from expunge.training.gradients import Gradient
from expunge.training.step import Step, WeightedTerm


class StageMethod:
    """Implements `training.loop.Method` for a stage, on rows of a task.

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
        self._rows = {"forget": forget if stage.objective else (), "retain": retain if stage.retain else ()}
        self.forgets = stage.objective is not None
        self.separate = stage.combine.separate
        self.clip: float | None = getattr(stage.optimizer.spec, "clip", None)
        parts = (*((stage.objective,) if stage.objective else ()), *stage.retain)
        self._parts = [(p, "retain" if p.card.kind == "retain" else "forget") for p in parts]
        # Apart, each role's backward should see only its own rows.
        self.joint = () if self.separate else tuple(dict.fromkeys(s for p in parts for s in p.reads))

    def order(self, epoch: int) -> list[dict[str, Example]]:
        """The draws of an epoch with every side its terms read."""
        found = []
        for i, draw in enumerate(self._stage.sampler.order(self._rows, epoch, self._seed)):
            sides: dict[str, Example] = {}
            if self._stage.objective:
                rng = stream(self._seed, "sides", epoch, i)
                sides |= self._stage.objective.sides(draw["forget"], self._task, rng)
            if self._stage.retain:
                sides["retain"] = draw["retain"]
            found.append(sides)
        return found

    def terms(self, step: Step) -> list[WeightedTerm]:
        """All named terms with role and weight. Names stay unique: two plug-ins never share one."""
        return [WeightedTerm(name, role, part.spec.weight, term)  # type: ignore[arg-type]
                for part, role in self._parts for name, term in part.terms(step).items()]

    def combine(self, forget: Gradient, retain: Gradient) -> Gradient:
        return self._stage.combine(forget, retain)

    @contextmanager
    def _perturbed(self, scope: Scope, gradient: Callable[[], Gradient]) -> Iterator[None]:
        with ExitStack() as stack:
            for perturb in self._stage.perturb:
                stack.enter_context(perturb.applied(self._subject, scope, gradient))
            yield

    def perturbed(self, scope: Scope, gradient: Callable[[], Gradient]) -> AbstractContextManager[None]:
        return self._perturbed(scope, gradient)

    def optimizer(self, scope: Scope) -> torch.optim.Optimizer:
        return self._stage.optimizer.build(list(scope.parameters.values()))

    def learning_rate(self, step: int, total: int, steps_per_epoch: int) -> float:
        return self._stage.optimizer.learning_rate(step, total, steps_per_epoch)


