"""The seams of the recipe algebra: one small class per kind, one verb each.

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
from expunge.methods.work import Work
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
    """Options of everything that adds terms to the loss."""

    weight: float = Field(1.0, ge=0, description="Coefficient of this term in the loss; 0 leaves it out.")


class TermPlugin(Plugin):
    """An objective or a retain term: reads sides of a step, returns named terms."""

    Spec: ClassVar[type[Spec]] = WeightedSpec
    reads: ClassVar[tuple[str, ...]] = ()
    """All sides whose answers it asks for: what can share a forward pass, and which roles can take turns."""

    value_is_loss: ClassVar[bool] = True
    """False when its gradient is not that of its value (a weight or a teacher is held still), so that only
    backpropagation finds it."""

    def terms(self, step: Step) -> dict[str, Term]:
        """Per-sample sums with what they are divided by."""
        raise NotImplementedError

    def companions(self, depth: int) -> str:
        """Recipe text of what it is published with, for a model of `depth` blocks."""
        return self.card.companions


class Objective(TermPlugin):
    """The source of forgetting."""

    builds: ClassVar[bool] = False
    """True when `prepare` has work to do before the first step."""
    made: dict[str, Any]
    """What `prepare` returned; set before the first step, from disk when a run is resumed."""

    @property
    def unbounded(self) -> bool:
        """Whether, with these options, only a threshold stops it."""
        return self.card.unbounded

    def problems(self, task: Task) -> list[ExpungeError]:
        """What of the task it cannot work with; asked before weights are loaded."""
        return []

    def prepare(self, subject: AnySubject, task: Task, work: Work) -> dict[str, Any]:
        """Builders look at the original here and return plain data (JSON); `subject` must end as it came."""
        return {}

    def sides(self, example: Example, task: Task, rng: random.Random) -> dict[str, Example]:
        """The rows drawn for one forget row; builders make rows from rows here, with the help of `made`."""
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

    def observe(self, losses: Mapping[str, float], epoch: int) -> None:
        """Weighted losses of this step by role ("forget", "retain"), before its gradients are combined."""

    def around_step(self, scope: Scope, optimizer: torch.optim.Optimizer) -> AbstractContextManager[None]:
        """Entered before the optimizer steps and left after it, for corrections of the update itself."""
        return nullcontext()

    def figures(self) -> dict[str, float]:
        """What the log should say about this step beside the gradients, such as a multiplier."""
        return {}

    def state(self) -> dict[str, Any]:
        """What a resumed run has to know: tensors and numbers. A run gets an instance of its own."""
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take back what `state` gave."""


class Perturb(Plugin):
    """A change of weights or activations while forget gradients are taken, undone bit for bit.

    The retain gradient is always that of the model as it is.
    """

    reads: ClassVar[tuple[str, ...]] = ()
    """Sides it needs in every step besides those that terms read."""

    inside: ClassVar[bool] = False
    """True when it perturbs activations within the forward pass (`Step.inside`)."""

    backpropagates: ClassVar[bool] = False
    """True when it takes gradients of its own, whatever the optimizer does."""

    @property
    def idle(self) -> bool:
        """Whether its strength is 0: then the run is that without it, bit for bit."""
        return False

    def gradient(self, subject: AnySubject, scope: Scope, plain: Oracle, *, step: int, total: int,
                 seed: int) -> Gradient:
        """The forget gradient in place of `plain()`, which it may call any number of times.

        `plain(tamper)` calls `tamper(step)` on every micro-batch before its terms are computed; there
        `step.inside(side, context)` puts the side's forward pass inside a context manager. Everything is
        restored on the way out, also through an exception.
        """
        raise NotImplementedError


class RateSpec(Spec):
    """Options of every optimizer: its learning rate and the curve of it."""

    lr: float = Field(1e-5, ge=0, le=1e30, description="Peak learning rate.")
    weight_decay: float = Field(0.01, ge=0, le=1e3, description="Decoupled decay.")
    warmup: float = Field(1.0, ge=0, description="Linear warm-up in epochs, at most half of all steps.")
    schedule: Literal["linear", "cosine", "constant"] = Field("linear", description="After the warm-up.")
    clip: float | None = Field(1.0, gt=0, description="Largest gradient norm; None never clips.")


class Optimizer(Plugin):
    """Builds a `torch.optim`-shaped optimizer and its learning-rate curve."""

    Spec: ClassVar[type[Spec]] = RateSpec

    def build(self, parameters: Sequence[torch.nn.Parameter]) -> torch.optim.Optimizer:
        raise NotImplementedError

    def probing(self, step: int, total: int) -> Probing | None:
        """How gradients of this step are estimated without backpropagation; None takes backpropagation."""
        return None

    def learning_rate(self, step: int, total: int, steps_per_epoch: int) -> float:
        """Rate of step `step` (from 0) of `total`: warm-up, then the curve."""
        warmup = min(round(self.spec.warmup * steps_per_epoch), total // 2)
        if step < warmup:
            return float(self.spec.lr * (step + 1) / warmup)
        done = (step - warmup) / max(total - warmup, 1)
        curve = {"linear": 1 - done, "cosine": (1 + math.cos(math.pi * done)) / 2, "constant": 1.0}
        return float(self.spec.lr * curve[self.spec.schedule])


class ScopePlugin(Plugin):
    """Chooses which parameters may move."""

    adapter: ClassVar[bool] = False
    """True when it adds an adapter that can be switched off."""
    reads: ClassVar[tuple[str, ...]] = ()
    """Sides ("forget", "retain") whose rows it looks at to choose; such a scope needs real weights."""

    def apply(self, subject: AnySubject, rows: Rows | None = None) -> Scope:
        """May wrap `subject.model` (adapters); freezes everything else."""
        raise NotImplementedError


class Sampler(Plugin):
    """Decides which rows meet in which step."""

    def order(self, rows: Mapping[str, Sequence[Example]], epoch: int, seed: int) -> list[dict[str, Example]]:
        """The draws of one epoch, a pure function of its arguments."""
        raise NotImplementedError


class Edit(Plugin):
    """Changes weights without a loop."""

    def problems(self, task: Task) -> list[ExpungeError]:
        """What of the task it cannot work with; asked before weights are loaded."""
        return []

    def apply(self, subject: AnySubject, task: Task, seed: int) -> dict[str, Any]:
        """Edit `subject` in place and return figures for the record."""
        raise NotImplementedError


class Wrap(Plugin):
    """A source of forgetting that returns another subject: a guard at inference, or an exact ensemble."""

    def problems(self, task: Task, config: Any) -> list[ExpungeError]:
        """What of the task, or of the model's config, it cannot work with; asked before weights are loaded."""
        return []

    def build(self, subject: AnySubject, task: Task, work: Work) -> tuple[AnySubject, dict[str, Any]]:
        """The subject that forgets, and figures for the record. Its model saves with `save_pretrained`."""
        raise NotImplementedError


class Guard(Wrap):
    """Forgets at inference; the weights it guards stay as they are."""


class Exact(Wrap):
    """Retrains what a row touched, on a model that was trained for it."""

    def unfit(self, subject: AnySubject, rows: Sequence[Example]) -> list[ExpungeError]:
        """Why `train` cannot start from this model with these rows; asked before anything is written."""
        return []

    def train(self, subject: AnySubject, rows: Sequence[Example], work: Work) -> tuple[AnySubject, dict[str, Any]]:
        """An original from which rows can be deleted exactly, and figures for the record."""
        raise NotImplementedError


class Preset(Plugin):
    """A published combination under its own name."""

    expands_to: ClassVar[str] = ""
