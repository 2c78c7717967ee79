"""The seams of the recipe algebra: one small class per kind, one verb each.

Legend: B rows, N supervised tokens (flat), T padded length, D hidden size, V vocabulary.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, ClassVar

import torch
from pydantic import Field

from expunge.models.scope import Scope
from expunge.models.subject import Subject
from expunge.plugin import Plugin, Spec
from expunge.records.task import Example, Task
from expunge.training.gradients import Gradient
from expunge.training.step import Step, Term


class WeightedSpec(Spec):
    """Options of everything that adds terms to the loss."""

    weight: float = Field(1.0, ge=0, description="Coefficient of this term in the loss; 0 leaves it out.")


class TermPlugin(Plugin):
    """An objective or a retain term: reads sides of a step, returns named terms."""

    Spec: ClassVar[type[Spec]] = WeightedSpec
    reads: ClassVar[tuple[str, ...]] = ()
    """Sides whose answers it asks for, so that they can share a forward pass."""

    def terms(self, step: Step) -> dict[str, Term]:
        """Per-sample sums with what they are divided by."""
        raise NotImplementedError

    def companions(self, depth: int) -> str:
        """Recipe text of what it is published with, for a model of `depth` blocks."""
        return self.card.companions


class Objective(TermPlugin):
    """The source of forgetting."""

    def sides(self, example: Example, task: Task, rng: random.Random) -> dict[str, Example]:
        """The rows drawn for one forget row; builders make rows from rows here."""
        return {"forget": example}


class Retain(TermPlugin):
    """The same verb on the retain side."""


class Combine(Plugin):
    """How forget and retain gradients become one update."""

    separate: ClassVar[bool] = False
    """True asks the loop for the two gradients apart (one backward pass each)."""

    def __call__(self, forget: Gradient, retain: Gradient) -> Gradient:
        """Lists in the order of the scope's parameters; must not write to its inputs."""
        raise NotImplementedError


class Perturb(Plugin):
    """A change of weights or activations while gradients are taken, undone bit for bit."""

    def applied(self, subject: Subject, scope: Scope, gradient: Callable[[], Gradient]) -> AbstractContextManager[None]:
        """Enter perturbed, leave restored, also through an exception. `gradient()` is that of this step."""
        raise NotImplementedError


class Optimizer(Plugin):
    """Builds a `torch.optim`-shaped optimizer and its learning-rate curve."""

    def build(self, parameters: Sequence[torch.nn.Parameter]) -> torch.optim.Optimizer:
        raise NotImplementedError

    def learning_rate(self, step: int, total: int, steps_per_epoch: int) -> float:
        """Rate of step `step` (from 0) of `total`."""
        raise NotImplementedError


class ScopePlugin(Plugin):
    """Chooses which parameters may move."""

    adapter: ClassVar[bool] = False
    """True when it adds an adapter that can be switched off."""

    def apply(self, subject: Subject) -> Scope:
        """May wrap `subject.model` (adapters); freezes everything else."""
        raise NotImplementedError


class Sampler(Plugin):
    """Decides which rows meet in which step."""

    def order(self, rows: Mapping[str, Sequence[Example]], epoch: int, seed: int) -> list[dict[str, Example]]:
        """The draws of one epoch, a pure function of its arguments."""
        raise NotImplementedError


class Edit(Plugin):
    """Changes weights without a loop."""

    def apply(self, subject: Subject, task: Task, seed: int) -> dict[str, Any]:
        """Edit `subject` in place and return figures for the record."""
        raise NotImplementedError


class Preset(Plugin):
    """A published combination under its own name."""

    expands_to: ClassVar[str] = ""
