"""Gradients from loss differences: two forward passes per direction, no backpropagation.

Source: Spall 1992 (two-point estimate); Malladi et al. 2023, MeZO (arXiv 2305.17333), for directions
that are drawn again from their seeds instead of stored.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, overload

import torch
from accelerate import Accelerator
from torch import Tensor

from expunge.data.encoder import Batch
from expunge.models.reference import Reference
from expunge.models.scope import Scope
from expunge.models.subject import Subject
from expunge.seeding import derive
from expunge.training.gradients import BOTH, Gradients, Tamper, make_step
from expunge.training.schedule import share
from expunge.training.step import Role, reduce_terms, totals, weighted_sum

if TYPE_CHECKING:
    from expunge.training.method import Method


@dataclass(frozen=True, kw_only=True)
class Probing:
    """How a gradient is estimated: `queries` directions at distance `radius`."""

    queries: int = 1
    radius: float = 1e-3


class Directions(Sequence[Tensor]):
    """sum_i coefficient_i * u_i, one parameter's part at a time, drawn again on every access.

    u_i is uniform on the sphere of radius sqrt(d) over all parameters together, so that the mean of
    u u^T is the identity and the estimate has the scale of the gradient.
    """

    def __init__(self, parameters: Sequence[Tensor], seeds: Sequence[int], coefficients: Sequence[float],
                 scales: Sequence[float] = (), masks: Sequence[Tensor | None] = ()) -> None:
        self._parameters, self._seeds, self._coefficients = parameters, seeds, coefficients
        self._masks = list(masks) or [None] * len(parameters)
        self.scales = list(scales) or [self._measure(seed) for seed in seeds]
        """Factor that scales each draw to its sphere; if given, the draws need not be measured."""

    def _measure(self, seed: int) -> float:
        squares = sum(float(self._normal(seed, i).square().sum()) for i in range(len(self)))
        free = sum(p.numel() if m is None else int(m.sum())
                   for p, m in zip(self._parameters, self._masks, strict=True))
        return float((free / squares) ** 0.5)

    def _normal(self, seed: int, index: int) -> Tensor:
        """Standard normal numbers of one parameter's shape, the same for the same seed; 0 outside its mask."""
        parameter, mask = self._parameters[index], self._masks[index]
        generator = torch.Generator().manual_seed(derive(seed, index))
        drawn = torch.randn(parameter.shape, generator=generator).to(parameter.device)
        return drawn if mask is None else drawn.mul_(mask)

    def __len__(self) -> int:
        return len(self._parameters)

    @overload
    def __getitem__(self, index: int) -> Tensor: ...
    @overload
    def __getitem__(self, index: slice) -> list[Tensor]: ...
    def __getitem__(self, index: int | slice) -> Tensor | list[Tensor]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if index >= len(self):
            raise IndexError(index)
        total = torch.zeros_like(self._parameters[index])
        for seed, coefficient, scale in zip(self._seeds, self._coefficients, self.scales, strict=True):
            total += (coefficient * scale) * self._normal(seed, index).to(total.dtype)
        return total

    def __iter__(self) -> Iterator[Tensor]:
        return (self[i] for i in range(len(self)))


@torch.no_grad()
def zeroth(method: Method, subject: Subject, scope: Scope, reference: Reference | None,
           micro: Sequence[Mapping[str, Batch]], separate: bool, accelerator: Accelerator, *,
           probing: Probing, seed: int, only: Role | None = None, tamper: Tamper | None = None) -> Gradients:
    """Like `gradients`, estimated from losses only. Dropout is off and both points use the same rows."""
    counts = totals(micro)
    roles = (only,) if only else BOTH
    parameters = list(scope.parameters.values())
    masks = [scope.masks.get(name) for name in scope.parameters]
    subject.model.eval()
    seeds = [derive(seed, "direction", i) for i in range(probing.queries)]

    def losses_here() -> Gradients:
        grads = Gradients([], [], [], {}, {})
        for batches in share(micro, subject.encoder):
            step = make_step(method, subject, reference, batches, tamper)
            with accelerator.autocast():
                terms = method.terms(step, only)
                named = reduce_terms(terms, counts)
            grads.note(named, {role: weighted_sum(terms, named, role) for role in roles}, step, counts)
        grads.add_up()
        return grads

    ends: list[tuple[Gradients, Gradients]] = []
    scales: list[float] = []
    for one in seeds:
        direction = Directions(parameters, [one], [probing.radius], masks=masks)
        scales += direction.scales
        with subject.evaluating(), scope.shifted(direction, 1):
            ahead = losses_here()
        with subject.evaluating(), scope.shifted(direction, -1):
            ends.append((ahead, losses_here()))
    slopes = {role: [(a.losses.get(role, 0.0) - b.losses.get(role, 0.0)) / (2 * probing.radius * probing.queries)
                     for a, b in ends] for role in roles}
    seen = [one for pair in ends for one in pair]
    values, weighted, nll = ({k: sum(getattr(g, part)[k] for g in seen) / len(seen) for k in getattr(seen[0], part)}
                             for part in ("values", "losses", "nll"))
    mean = Gradients([], [], [], values, weighted, nll)
    mean.positions = len(seen) * sum(counts[side, "positions"] for side in nll) // 3
    estimates = {role: Directions(parameters, seeds, slopes[role], scales, masks) for role in roles}
    if separate or only:
        mean.forget, mean.retain = estimates.get("forget", []), estimates.get("retain", [])
    else:
        both = [sum(slope) for slope in zip(*slopes.values(), strict=True)]
        mean.together = Directions(parameters, seeds, both, scales, masks)
        mean.losses = {"both": sum(mean.losses.values())}
    return mean
