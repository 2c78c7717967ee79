"""Norm of the loss gradient of each row."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TypedDict

import torch
from pydantic import Field
from torch import Tensor, nn

from expunge import plugin
from expunge.errors import UsageError
from expunge.models.owners import owners
from expunge.models.subject import Subject
from expunge.plugin import Card, Property
from expunge.probes.base import Probe, Progress
from expunge.records.observation import Row
from expunge.records.task import Example, Task


class GradientRow(TypedDict, total=False):
    """The gradient of one answer's mean loss."""

    id: str
    entity: str
    group: str
    form: str
    """Always "answer"."""
    norm: float
    """Mean over parameter tensors of the p-norm of their gradient."""
    blocks: list[float]
    """The same within each decoder block; left out where the blocks are not known."""


def mean_norm(gradients: Sequence[Tensor | None], p: float = 2.0) -> float:
    """Mean over tensors of ||g||_p, in float32; tensors without a gradient are left out."""
    norms = [float(g.float().norm(p)) for g in gradients if g is not None]
    return math.fsum(norms) / len(norms) if norms else 0.0


@contextmanager
def with_gradients(model: nn.Module) -> Iterator[list[nn.Parameter]]:
    """Yields every floating-point parameter with requires_grad on, frozen ones too; restores the flags on exit."""
    before = [(q, q.requires_grad) for q in model.parameters() if q.is_floating_point()]
    try:
        for q, _ in before:
            q.requires_grad_(True)
        yield [q for q, _ in before]
    finally:
        for q, flag in before:
            q.requires_grad_(flag)


class Gradient(Probe):
    """Norm of the loss gradient, one row at a time. `.grad` is neither read nor written."""

    class Spec(plugin.Spec):
        p: float = Field(2.0, gt=0, description="Order of the norm of each parameter's gradient.")

    card = Card(
        name="gradient", kind="probe", access="gradients",
        summary="mean over parameters of the norm of each row's loss gradient",
        paper="OpenUnlearning, arXiv 2506.12618 (GradNorm)",
        formula="mean_W ||d L(x) / d W||_p, L = mean -log p over the answer and its end token",
        defaults="p = 2, batches of one, as published; dropout off",
        model_needs=frozenset({"logp", "weights"}),
        deviations=("Frozen parameters count too, so that the average is over the same parameters with an adapter or "
                    "in a frozen copy; quantised ones, which have no gradient, do not.",),
    )
    must_show = (
        Property("equals_a_hand_made_loop", {}, "backward(), norms and zeroing written out"),
        Property("asks_gradients_without_a_trace", {}, "weights, .grad, flags and mode are as before"),
        Property("ignores_padding_and_order", {}, "one row at a time, independent of other rows"),
    )

    def observe(self, subject: Subject, examples: Sequence[Example], task: Task,
                progress: Progress | None = None, *, partner: Subject | None = None) -> list[Row]:
        """Raises UsageError for a subject without gradients, such as some guards."""
        rows: list[Row] = []
        with subject.evaluating(), torch.enable_grad(), with_gradients(subject.model) as parameters:
            blocks = owners(subject, parameters)
            for example in examples:
                tokens = subject.encoder.encode(example)
                if progress:
                    progress(1)
                if tokens.supervised == 0:
                    continue
                loss = -subject.answers(subject.collate([tokens])).logp_N.mean()
                if not loss.requires_grad:
                    raise UsageError("This model has no gradients.", "Its answers are not differentiable "
                                     "in its weights.", "Leave out mia.grad_norm.")
                gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
                inside = [mean_norm([gradients[i] for i in own], self.spec.p) for own in blocks]
                rows.append(GradientRow(
                    id=example.id, entity=example.entity, group=example.group, form="answer",
                    norm=float(f"{mean_norm(gradients, self.spec.p):.7g}"),
                    **({"blocks": [float(f"{norm:.7g}") for norm in inside]} if inside else {})))
        return rows
