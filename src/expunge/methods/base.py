"""Base classes of the parts of a recipe: one small class per kind.

Legend: B rows, N supervised tokens (flat), T padded length, D hidden size, V vocabulary.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field

from expunge.data.encoder import Row
from expunge.errors import ExpungeError
from expunge.methods.run_context import RunContext
from expunge.models.scope import Scope
from expunge.models.subject import AnySubject
from expunge.plugin import Plugin, Spec
from expunge.records.task import Example, Task
from expunge.training.gradients import Gradient, Oracle
from expunge.training.step import Step, Term
from expunge.training.zeroth import Probing

Rows = Mapping[str, Sequence[Row]]
"""Side -> all its rows as tokens."""


class WeightedSpec(Spec):
    """Options of every plug-in that adds terms to the loss."""

    weight: float = Field(1.0, ge=0, description="Coefficient of this term in the loss; 0 removes it.")


class TermPlugin(Plugin):
    """An objective or a retain term: from the sides of a step to named loss terms."""

    Spec: ClassVar[type[Spec]] = WeightedSpec
    reads: ClassVar[tuple[str, ...]] = ()
    """All sides whose answers it uses. Decides which sides share a forward pass, and which roles run separately."""

    value_is_loss: ClassVar[bool] = True
    """False when its gradient is not the derivative of its value (a weight or a teacher is detached), so that only
    backpropagation gives it."""

    def terms(self, step: Step) -> dict[str, Term]:
        """Named terms: per-sample sums with their denominators."""
        raise NotImplementedError

    def companions(self, depth: int) -> str:
        """Recipe text of the plug-ins it is published with, for a model of `depth` blocks."""
        return self.card.companions


class Objective(TermPlugin):
    """The source of forgetting."""

    builds: ClassVar[bool] = False
    """True when `prepare` computes data before the first step."""
    made: dict[str, Any]
    """The result of `prepare`; set before the first step, read from disk when a run is resumed."""

    @property
    def unbounded(self) -> bool:
        """Whether, with these options, the loss is unbounded, so that only a threshold stops it."""
        return self.card.unbounded

    def problems(self, task: Task) -> list[ExpungeError]:
        """Problems with the task; called before weights are loaded."""
        return []

    def prepare(self, subject: AnySubject, task: Task, run: RunContext) -> dict[str, Any]:
        """Builders read the original here and return plain data (JSON); `subject` must end unchanged."""
        return {}

    def rollout(self, subject: AnySubject, draws: Sequence[Mapping[str, Example]],
                seed: int) -> Sequence[Mapping[str, Example]]:
        """The draws of one optimizer step with the rows that the current model makes for them, as new sides.

        Called before every step, in evaluation mode and without gradients. Everything random must come from `seed`,
        so that a resumed run makes the same rows. `subject` must end as it came. The reference is asked about such
        rows while training goes on, so it is the original itself rather than a cache.
        """
        return draws

    @property
    def rolls_out(self) -> bool:
        """Whether rows are made from the current model before a step; needs `rollout`."""
        return type(self).rollout is not Objective.rollout

    def sides(self, example: Example, task: Task, rng: random.Random) -> dict[str, Example]:
        """The rows of one step for one forget row, by side; builders make new rows here from `made`."""
        return {"forget": example}


class Retain(TermPlugin):
    """A loss term on the retain side."""


class Combine(Plugin):
    """Combines forget and retain gradients into one update."""

    separate: ClassVar[bool] = False
    """True when it needs the two gradients separately (one backward pass each)."""

    def __call__(self, forget: Gradient, retain: Gradient) -> Gradient:
        """Lists in the order of the scope's parameters; must not write to its inputs."""
        raise NotImplementedError

    def observe(self, losses: Mapping[str, float], epoch: int) -> None:
        """Receives the weighted losses of this step by role ("forget", "retain") before the gradients are combined."""

    def around_step(self, scope: Scope, optimizer: torch.optim.Optimizer) -> AbstractContextManager[None]:
        """Context manager around the optimizer step, for corrections of the update itself."""
        return nullcontext()

    def figures(self) -> dict[str, float]:
        """Figures of this step for the log, such as a multiplier."""
        return {}

    def state(self) -> dict[str, Any]:
        """State for a resumed run: tensors and numbers. Every run has its own instance."""
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restore what `state` returned."""


class Perturb(Plugin):
    """A change of weights or activations while forget gradients are computed, undone bit for bit.

    The retain gradient is always that of the unperturbed model.
    """

    reads: ClassVar[tuple[str, ...]] = ()
    """Sides it needs in every step in addition to those of the terms."""

    inside: ClassVar[bool] = False
    """True when it perturbs activations within the forward pass (`Step.inside`)."""

    backpropagates: ClassVar[bool] = False
    """True when it computes gradients itself, also with an optimizer that needs none."""

    @property
    def idle(self) -> bool:
        """Whether its strength is 0: then the run equals the run without it, bit for bit."""
        return False

    def gradient(self, subject: AnySubject, scope: Scope, plain: Oracle, *, step: int, total: int,
                 seed: int) -> Gradient:
        """The forget gradient that replaces `plain()`, which it may call any number of times.

        `plain(tamper)` calls `tamper(step)` on every micro-batch before its terms are computed; there
        `step.inside(side, context)` puts the side's forward pass inside a context manager. Everything is
        restored on exit, also after an exception.
        """
        raise NotImplementedError


class RateSpec(Spec):
    """Options of every optimizer: learning rate and schedule."""

    lr: float = Field(1e-5, ge=0, le=1e30, description="Peak learning rate.")
    weight_decay: float = Field(0.01, ge=0, le=1e3, description="Decoupled weight decay.")
    warmup: float = Field(1.0, ge=0, description="Linear warm-up in epochs; at most half of all steps.")
    schedule: Literal["linear", "cosine", "constant"] = Field("linear", description="Schedule after the warm-up.")
    clip: float | None = Field(1.0, gt=0, description="Maximum gradient norm; None disables clipping.")


class Optimizer(Plugin):
    """Builds an optimizer with the interface of `torch.optim`, and its learning-rate schedule."""

    Spec: ClassVar[type[Spec]] = RateSpec

    def build(self, parameters: Sequence[torch.nn.Parameter]) -> torch.optim.Optimizer:
        raise NotImplementedError

    def probing(self, step: int, total: int) -> Probing | None:
        """How gradients of this step are estimated without backpropagation; None uses backpropagation."""
        return None

    def learning_rate(self, step: int, total: int, steps_per_epoch: int) -> float:
        """Rate of step `step` (from 0) of `total`: warm-up, then the schedule."""
        warmup = min(round(self.spec.warmup * steps_per_epoch), total // 2)
        if step < warmup:
            return float(self.spec.lr * (step + 1) / warmup)
        done = (step - warmup) / max(total - warmup, 1)
        curve = {"linear": 1 - done, "cosine": (1 + math.cos(math.pi * done)) / 2, "constant": 1.0}
        return float(self.spec.lr * curve[self.spec.schedule])


class ScopePlugin(Plugin):
    """Chooses the parameters that may change."""

    adapter: ClassVar[bool] = False
    """True when it adds an adapter that can be switched off."""
    reads: ClassVar[tuple[str, ...]] = ()
    """Sides ("forget", "retain") whose rows it reads to choose; such a scope needs loaded weights."""

    def apply(self, subject: AnySubject, rows: Rows | None = None) -> Scope:
        """May wrap `subject.model` (adapters); freezes all other parameters."""
        raise NotImplementedError


class Sampler(Plugin):
    """Decides which rows are in which step."""

    def order(self, rows: Mapping[str, Sequence[Example]], epoch: int, seed: int) -> list[dict[str, Example]]:
        """The draws of one epoch, a pure function of its arguments."""
        raise NotImplementedError


class Edit(Plugin):
    """Changes weights without a training loop."""

    def problems(self, task: Task) -> list[ExpungeError]:
        """Problems with the task; called before weights are loaded."""
        return []

    def apply(self, subject: AnySubject, task: Task, seed: int) -> dict[str, Any]:
        """Edits `subject` in place and returns figures for the record."""
        raise NotImplementedError


class Wrap(Plugin):
    """A source of forgetting that returns another subject: a guard at inference, or an exact ensemble."""

    def problems(self, task: Task, config: Any) -> list[ExpungeError]:
        """Problems with the task or the model's config; called before weights are loaded."""
        return []

    def build(self, subject: AnySubject, task: Task, run: RunContext) -> tuple[AnySubject, dict[str, Any]]:
        """The subject that forgets, and figures for the record. Its model saves with `save_pretrained`."""
        raise NotImplementedError


class Guard(Wrap):
    """Forgets at inference; the guarded weights stay unchanged."""


class Exact(Wrap):
    """Retrains the stages that saw a row, on a model trained for exact deletion."""

    def unfit(self, subject: AnySubject, rows: Sequence[Example]) -> list[ExpungeError]:
        """Reasons why `train` cannot start from this model with these rows; called before anything is written."""
        return []

    def train(self, subject: AnySubject, rows: Sequence[Example], run: RunContext) -> tuple[AnySubject, dict[str, Any]]:
        """An original from which rows can be deleted exactly, and figures for the record."""
        raise NotImplementedError


class Preset(Plugin):
    """A named recipe, as published."""

    expands_to: ClassVar[str] = ""
