"""What the loop runs: a recipe stage, plain training, an assistant. Base class with defaults."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from expunge.data.encoder import Batch
from expunge.models.scope import Scope
from expunge.training.gradients import Gradient, Gradients, Oracle
from expunge.training.step import Role, Step, WeightedTerm
from expunge.training.zeroth import Probing

RetainLoss = Callable[[Sequence[Mapping[str, Batch]]], float]
"""The weighted loss of the retain role over micro-batches, at the current weights."""


class Method:
    """Terms, gradients and update of one step. A subclass overrides what differs."""

    shared_pass: tuple[str, ...] = ()
    """Sides whose rows go through the model in one forward pass."""
    disjoint: bool = False
    """Whether the two roles read different sides, so that they can be computed one after the other."""
    separate: bool = False
    """Whether `combine` needs the gradients of the two roles separately."""
    clip: float | None = None
    """Maximum gradient norm; None disables clipping."""
    forgets: bool = False
    """Whether an unchanged forget probability raises an alarm."""
    perturbs: bool = False
    """Whether `perturb` changes the forget gradient."""
    period: int = 1
    """Steps from one settled state of the weights to the next; readings and kept weights are of settled ones only."""

    def begin(self, step: int, total: int) -> None:
        """Called before the gradients of step `step` (from 0) of `total`."""

    def spent(self) -> int:
        """Positions of gradients taken in this step beside those of its first: by `perturb` itself, or by `combine`."""
        return 0

    def terms(self, step: Step, only: Role | None = None) -> list[WeightedTerm]:
        """The named terms of a micro-batch; with `only` those of one role."""
        raise NotImplementedError

    def optimizer(self, scope: Scope) -> torch.optim.Optimizer:
        """A new optimizer of the trainable parameters."""
        raise NotImplementedError

    def learning_rate(self, step: int, total: int, steps_per_epoch: int) -> float:
        """Rate of step `step` (from 0) of `total`."""
        raise NotImplementedError

    def perturb(self, scope: Scope, plain: Oracle, step: int, total: int) -> Gradient:
        """The forget gradient that replaces `plain()`."""
        return plain()

    def ready(self, epoch: int, loss: RetainLoss, micro: Sequence[Mapping[str, Batch]]) -> None:
        """Called before `combine`: `loss` reads the retain role's weighted loss at the current weights, `micro` are the
        micro-batches of the step."""

    def again(self, scope: Scope, take: Callable[[], Gradients]) -> None:
        """Called before `combine`: `take` computes the gradients of the step anew, at the weights as they are."""

    def combine(self, grads: Gradients, epoch: int) -> Gradient:
        """One update from the step's gradients."""
        return grads.total()

    def around_step(self, scope: Scope, optimizer: torch.optim.Optimizer) -> AbstractContextManager[None]:
        """Context manager around the optimizer step."""
        return nullcontext()

    def settle(self, scope: Scope, optimizer: torch.optim.Optimizer, step: int, total: int) -> bool:
        """Called after the update of step `step` (from 0) of `total`; returns whether it changed weights."""
        return False

    def figures(self) -> dict[str, float]:
        """Further figures of this step for the log."""
        return {}

    def state(self) -> dict[str, Any]:
        """State for a resumed run."""
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restore what `state` returned."""

    def probing(self, step: int, total: int) -> Probing | None:
        """How gradients are estimated without backpropagation; None uses backpropagation."""
        return None
