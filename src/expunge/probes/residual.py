"""The residual stream between decoder blocks: reading it, and running a model with part of it replaced.

Legend: B rows, T padded length, D hidden size, N supervised tokens (flat).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from expunge.data.text_encoder import TokenBatch, TokenRow
from expunge.models.answers import Answers
from expunge.models.language import CausalLM
from expunge.models.sites import Site, read
from expunge.records.observation import Row
from expunge.records.task import Example

Kept = TypeVar("Kept")


def watch(subject: CausalLM, batch: TokenBatch, keep: Callable[[Any], Kept],
          layers: Sequence[int] | None = None) -> tuple[Answers, list[Kept]]:
    """One forward pass: the model's answers, and `keep(output)` of every block named, in order."""
    wanted = range(len(subject.blocks)) if layers is None else layers
    with read(subject, [Site(layer) for layer in wanted], keep, raw=True) as values:
        answers = subject.answers(batch)
    return answers, [kept[-1] for kept in values]


def states(output: Any) -> Tensor:
    """The hidden states in what a block returned, shape B T D (members of an ensemble stacked along B)."""
    states_BTD: Tensor = output[0] if isinstance(output, tuple) else output
    return states_BTD


def with_states(output: Any, states_BTD: Tensor) -> Any:
    """The same output with other hidden states."""
    return (states_BTD, *output[1:]) if isinstance(output, tuple) else states_BTD


def text_mask(batch: TokenBatch) -> Tensor:
    """Which of the N supervised tokens belong to the answer rather than end it."""
    flags = [t < row.answer for row in batch.rows for t in range(row.answer + row.end)]
    return torch.tensor(flags, device=batch.ids_BT.device)


def answerable(tokens: Sequence[TokenRow]) -> list[int]:
    """Indices of the rows whose answer has a token."""
    return [i for i, row in enumerate(tokens) if row.answer]


def heading(example: Example) -> Row:
    """The fields that every row starts with."""
    return {"id": example.id, "entity": example.entity, "group": example.group, "form": "answer", "index": 0}


def rounded(values: Tensor, digits: int) -> list[float]:
    """Plain floats with so many significant digits."""
    return [float(f"{v:.{digits}g}") for v in values.tolist()]
