"""Gradients that a perturbation takes itself, on the rows of a step."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from expunge import processes
from expunge.data.encoder import Batch
from expunge.models.answers import Answers
from expunge.models.scope import Scope
from expunge.models.subject import Subject
from expunge.training.gradients import Gradient, Oracle
from expunge.training.step import Step

OfAnswers = Callable[[Answers], Tensor]
"""A number of every supervised token of a batch, shape N."""


def with_batches(plain: Oracle, side: str) -> tuple[Gradient, list[Batch]]:
    """The forget gradient, and this process's micro-batches of a side of the step."""
    seen: dict[int, Batch] = {}

    def note(step: Step) -> None:
        batch = step.batches[side]
        seen.setdefault(id(batch.rows), batch)  # another perturbation may ask for the same rows again

    return plain(note), list(seen.values())


def mean_of(subject: Subject, batches: Sequence[Batch], values: OfAnswers) -> float:
    """Mean over all supervised tokens of the step, all processes together; no gradient."""
    total = {"sum": 0.0, "count": 0.0}
    with subject.evaluating():
        for batch in batches:
            total["sum"] += float(values(subject.answers(batch)).double().sum())
            total["count"] += batch.count("tokens")
    (whole,) = processes.add_figures(total)
    return whole["sum"] / max(whole["count"], 1)


def mean_gradient(subject: Subject, scope: Scope, batches: Sequence[Batch], values: OfAnswers,
                  factor: float = 1.0) -> list[Tensor]:
    """Gradient of `factor` times the mean over all supervised tokens of the step, in evaluation mode; masked elements
    are zero."""
    parameters = list(scope.parameters.values())
    sums = [torch.zeros_like(p) for p in parameters]
    (whole,) = processes.add_figures({"count": float(sum(batch.count("tokens") for batch in batches))})
    training = subject.model.training
    subject.model.eval()
    try:
        for batch in batches:
            loss = factor * values(subject.answers(batch)).sum() / max(whole["count"], 1)
            for total, part in zip(sums, torch.autograd.grad(loss, parameters, allow_unused=True), strict=True):
                if part is not None:
                    total.add_(part)
    finally:
        subject.model.train(training)
    scope.mask(sums)
    processes.add(sums)
    return sums
