"""A step shortened until a loss keeps to a bound."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from expunge.models.scope import Scope


@torch.no_grad()
def shortened(scope: Scope, before: Mapping[str, Tensor], scales: Sequence[float], loss: Callable[[], float],
              most: float) -> float:
    """Take the step from `before` to the current weights at the longest of `scales` at which `loss()` is at most
    `most`, or no step; returns its scale. Scale 1 leaves the weights as they are, to the bit."""
    steps = {name: parameter - before[name] for name, parameter in scope.parameters.items()}
    for scale in sorted(scales, reverse=True):
        for name, parameter in scope.parameters.items():
            parameter.copy_(parameter if scale == 1 else before[name] + scale * steps[name])
        if loss() <= most:
            return scale
    for name, parameter in scope.parameters.items():
        parameter.copy_(before[name])
    return 0.0
