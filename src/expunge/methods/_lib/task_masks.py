"""Which weights a fine-tuned task needs: TALL-masks and their consensus (arXiv 2405.07813).

A task is a set of rows; its vector is the change of the weights when a copy is fine-tuned on them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from expunge.methods.finetune import finetune
from expunge.models.subject import Subject
from expunge.progress import Announce, silent
from expunge.records.task import Example, Task
from expunge.seeding import stream

Vector = dict[str, Tensor]
"""Name of a parameter -> its change. A tied weight occurs once; buffers do not occur."""


def tall_mask(task: Mapping[str, Tensor], total: Mapping[str, Tensor], threshold: float) -> Vector:
    """|v| > threshold |V - v| for the vector v of a task and the sum V over tasks; a weight that v leaves is False."""
    return {name: v.abs() > threshold * (total[name] - v).abs() for name, v in task.items()}


def consensus_mask(masks: Sequence[Mapping[str, Tensor]], least: int) -> Vector:
    """Where at least `least` masks are True: 0 is everywhere, more than there are masks nowhere."""
    return {name: torch.stack([mask[name] for mask in masks]).sum(0) >= least for name in masks[0]}


def parts_of(task: Task, count: int, seed: int) -> list[list[Example]]:
    """The retain rows in up to `count` parts, each with entities of its own."""
    entities = list(dict.fromkeys(row.entity or row.id for row in task.retain))
    stream(seed, "task masks").shuffle(entities)
    groups = {entity: i % count for i, entity in enumerate(entities)}
    parts = [[row for row in task.retain if groups[row.entity or row.id] == i] for i in range(count)]
    return [part for part in parts if part]


def task_vector(subject: Subject, rows: Sequence[Example], *, epochs: float, lr: float, batch_size: int,
                seed: int, announce: Announce = silent) -> Vector:
    """What fine-tuning a copy on the rows changes; `subject` stays."""
    learned = subject.clone()
    finetune(learned, rows, epochs=epochs, lr=lr, batch_size=batch_size, seed=seed, announce=announce)
    before = dict(subject.model.named_parameters())
    return {name: (after - before[name]).detach() for name, after in learned.model.named_parameters()}


def summed(vectors: Sequence[Mapping[str, Tensor]]) -> Vector:
    """The multi-task vector."""
    total = {name: value.clone() for name, value in vectors[0].items()}
    for vector in vectors[1:]:
        for name, value in vector.items():
            total[name] += value
    return total
