"""Step length along a direction of weights: until the rows' loss reaches that of unseen rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from expunge.data.encoder import Row
from expunge.methods._lib.importance import answer_loss
from expunge.models.subject import Subject


def calibrate(loss: Callable[[float], float], target: float, start: float, close: float = 0.02) -> float:
    """The step length at which `loss` is at most a share `close` below `target`: doubling, then bisection.

    Args:
        loss: loss after a step of this length; need not be monotone, and NaN counts as above the target.
        start: first length of the doubling. If 40 doublings do not reach the target, the length with the
            highest loss is returned.
    """
    low, high, reached = 0.0, start, loss(start)
    highest = (reached, start)
    for _ in range(40):
        if not reached < target:
            break
        low, high = high, 2 * high
        reached = loss(high)
        highest = max(highest, (reached, high))
    else:
        return highest[1]
    for _ in range(60):
        middle = (low + high) / 2
        reached = loss(middle)
        if not reached <= target:
            high = middle
            continue
        low = middle
        if reached >= (1 - close) * target:
            break
    return low


def mean_loss(subject: Subject, rows: Sequence[Row], batch_size: int = 16) -> float:
    """Mean over rows of the mean negative log-likelihood of their answer tokens, nats."""
    with subject.evaluating():
        parts = [answer_loss(subject.answers(subject.collate(rows[i: i + batch_size])))
                 for i in range(0, len(rows), batch_size)]
    return float(torch.cat(parts).mean())


def ascend(subject: Subject, gradient: Mapping[str, Tensor], rows: Sequence[Row], *, step: float | None = None,
           target: float = 0.0) -> None:
    """Move the named weights along `gradient`: by `step` times it, or until the rows' loss reaches `target`.

    Args:
        gradient: parameter name -> tensor of its shape, the gradient of the loss to raise.
        target: nats per token, approached from below.
    """
    named = dict(subject.model.named_parameters())
    before = {name: named[name].detach().clone() for name in gradient}

    def at(length: float) -> float:
        with torch.no_grad():
            for name, slope in gradient.items():
                named[name].copy_(torch.add(before[name], slope, alpha=length))
        return mean_loss(subject, rows)

    if step is None:
        sizes = [float(torch.stack([v.norm() for v in side.values()]).norm()) for side in (before, gradient)]
        step = calibrate(at, target, 1e-4 * sizes[0] / max(sizes[1], 1e-12))
    at(step)
