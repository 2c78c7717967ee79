"""What an edit of the MLPs needs: their matrices, an adversary that knows the rows again, a budget of divergence."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from expunge.data.encoder import Row
from expunge.errors import UsageError
from expunge.methods._lib.divergence import kl
from expunge.models.adapter import add_adapter
from expunge.models.reference import Reference
from expunge.models.slots import place_of
from expunge.models.subject import Subject
from expunge.records.task import Example
from expunge.training.plain import Plain, train_plainly


def mlp_matrices(subject: Subject) -> dict[str, bool]:
    """Matrices of the MLPs -> whether they are kept transposed, as GPT-2's are. Routers are left out.

    Raises:
        UsageError: there are none.
    """
    found = {}
    for number in range(len(subject.blocks)):
        place = place_of(subject, "mlp", number)
        for name, module in place.module.named_modules():
            router = "router" in f"{name} {type(module).__name__}".lower()
            if isinstance(module, nn.Linear | Conv1D) and not router:
                found[".".join(part for part in (place.name, name, "weight") if part)] = isinstance(module, Conv1D)
    if not found:
        raise UsageError("The MLPs of this model hold no matrix of their own.",
                         fix="It needs a dense model of a known family, without adapters.")
    return found


class Descent(Plain):
    """Plain gradient descent, unclipped."""

    clip = None

    def optimizer(self, scope: Any) -> torch.optim.Optimizer:
        return torch.optim.SGD(list(scope.parameters.values()), lr=self.lr)


def relearned(subject: Subject, rows: Sequence[Example], names: Sequence[str], *, lr: float, rank: int,
              batch_size: int, seed: int) -> Subject:
    """A copy that has learned the rows for one epoch, through an adapter on `names` that is merged.

    The gradient by a merged matrix is that by the frozen one under the adapter.
    """
    copy, targets = subject.clone(), [name.removesuffix(".weight") for name in names]
    scope = add_adapter(copy, rank=rank, alpha=8.0, targets=targets, seed=seed)
    train_plainly(copy, scope, rows, Descent(lr), steps=math.ceil(len(rows) / batch_size), batch_size=batch_size,
                  seed=seed)
    copy.model = copy.model.merge_and_unload()
    copy.renamed()
    return copy


def mean_divergence(subject: Subject, reference: Reference, rows: Sequence[Row]) -> float:
    """Mean KL(original || subject) per supervised token of the rows, nats."""
    total = count = 0.0
    with subject.evaluating():
        for few in subject.encoder.batches(rows):
            batch = subject.collate([rows[i] for i in few])
            kl_N = kl(reference.answers(batch).source, subject.answers(batch).source)
            total, count = total + float(kl_N.double().sum()), count + len(kl_N)
    return total / count
