"""What the loop runs: a recipe stage, plain training, an assistant. The base class does nothing special."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from expunge.models.scope import Scope
from expunge.training.gradients import Gradient, Gradients, Oracle
from expunge.training.step import Role, Step, WeightedTerm
from expunge.training.zeroth import Probing


class Method:
    """One step's terms, gradients and update. A subclass says only what differs."""

    shared_pass: tuple[str, ...] = ()
    """Sides whose rows go through the model in one forward pass."""
    disjoint: bool = False
    """Whether the two roles read different sides, so that one can be computed after the other."""
    separate: bool = False
    """Whether `combine` needs the gradients of the two roles one by one."""
    clip: float | None = None
    """Largest gradient norm; None never clips."""
    forgets: bool = False
    """Whether a forget probability that stays is a failure."""
    perturbs: bool = False
    """Whether `perturb` changes the forget gradient."""

    def terms(self, step: Step, only: Role | None = None) -> list[WeightedTerm]:
        """The named terms of a micro-batch; those of one role where it is named."""
        raise NotImplementedError

    def optimizer(self, scope: Scope) -> torch.optim.Optimizer:
        """A new optimizer of the parameters that may move."""
        raise NotImplementedError

    def learning_rate(self, step: int, total: int, steps_per_epoch: int) -> float:
        """Rate of step `step` (from 0) of `total`."""
        raise NotImplementedError

    def perturb(self, scope: Scope, plain: Oracle, step: int, total: int) -> Gradient:
        """The forget gradient in place of `plain()`."""
        return plain()

    def combine(self, grads: Gradients, epoch: int) -> Gradient:
        """One update from the step's gradients."""
        return grads.total()

    def around_step(self, scope: Scope, optimizer: torch.optim.Optimizer) -> AbstractContextManager[None]:
        """Entered before the optimizer steps and left after it."""
        return nullcontext()

    def figures(self) -> dict[str, float]:
        """What the log says of this step beside losses and gradients."""
        return {}

    def state(self) -> dict[str, Any]:
        """What a resumed run has to know."""
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take back what `state` gave."""

    def probing(self, step: int, total: int) -> Probing | None:
        """How gradients are estimated without backpropagation; None takes backpropagation."""
        return None
