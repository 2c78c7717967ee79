"""Products with the Hessian of a forget loss, from gradients alone: no second backward pass, so every attention kernel,
every perturbation inside and gradient checkpointing work."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from expunge.models.scope import Scope
from expunge.training.gradients import Gradient, inner

AtWeights = Callable[[], Gradient]
"""The gradient at the weights as they are."""


def hessian_product(scope: Scope, gradient: AtWeights, direction: Gradient, length: float) -> list[Tensor]:
    """H v of the loss whose gradient this is, by central differences; zero for a zero direction.

    Args:
        direction: v, one tensor per parameter of the scope.
        length: L2 norm of the move to each side. Too long adds third derivatives, too short float32 noise.
    """
    size = inner(direction, direction) ** 0.5
    if size == 0:
        return [d.clone() for d in direction]
    with scope.shifted(direction, length / size):
        ahead = list(gradient())
    with scope.shifted(direction, -length / size):
        behind = list(gradient())
    return [(a - b) * (size / (2 * length)) for a, b in zip(ahead, behind, strict=True)]
