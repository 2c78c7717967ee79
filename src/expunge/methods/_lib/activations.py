"""Distances between activations, shared by the representation methods.

Legend: B rows, T padded length, D hidden size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from expunge.data.text_encoder import TokenBatch
from expunge.models.language import CausalLM
from expunge.records.task import Example
from expunge.training.step import Term

Counted = Literal["answer", "all"]
"""Positions that count: those of the answer's tokens, or every real token."""


def published_block(depth: int) -> int:
    """RMU's published layer (7 of 32) scaled to a model of `depth` blocks; at least 1."""
    return min(max(round(7 * depth / 32), 1), depth - 1)


def counted(batch: TokenBatch, mask: Counted) -> Tensor:
    """Which positions count, bool, shape B T; padding never does."""
    if mask == "all":
        return batch.attention_BT.bool()
    counted_BT = torch.zeros_like(batch.attention_BT, dtype=torch.bool)
    for b, row in enumerate(batch.rows):
        counted_BT[b, row.prompt: len(row.ids)] = True
    return counted_BT


def over_counted(values_BT: Tensor, batch: TokenBatch, mask: Counted, side: str) -> Term:
    """The mean of a number per position over those that count."""
    return Term((values_BT * counted(batch, mask)).sum(-1), "positions" if mask == "all" else "tokens", side)


def masked_mse(hidden_BTD: Tensor, target: Tensor, batch: TokenBatch, mask: Counted, side: str) -> Term:
    """Mean over counted positions of the mean over D of the squared difference.

    `target` broadcasts against B T D. Padding never counts; `mask="answer"` also excludes the prompt.
    """
    return over_counted((hidden_BTD - target).pow(2).mean(-1), batch, mask, side)


def mean_sizes(subject: CausalLM, examples: Sequence[Example], block: int, mask: Counted) -> Tensor:
    """Mean of |H_l| over all counted positions of these rows, shape D, on the CPU; `subject` ends unchanged."""
    rows = [subject.encoder.encode(example) for example in examples]
    total_D, count = torch.zeros(subject.width, dtype=torch.float64), 0
    with subject.evaluating():
        for part in subject.encoder.batches(rows):
            batch = subject.collate([rows[i] for i in part])
            states_ND = subject.hidden(batch, block)[counted(batch, mask)]
            total_D += states_ND.double().abs().sum(0).cpu()
            count += len(states_ND)
    return (total_D / max(count, 1)).float()
