"""Distances between activations, shared by the representation methods.

Legend: B rows, T padded length, D hidden size.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from expunge.data.text_encoder import TokenBatch
from expunge.training.step import Term


def published_block(depth: int) -> int:
    """RMU's published layer (7 of 32) scaled to a model of `depth` blocks; at least 1."""
    return min(max(round(7 * depth / 32), 1), depth - 1)


def masked_mse(hidden_BTD: Tensor, target: Tensor, batch: TokenBatch, mask: Literal["answer", "all"],
               side: str) -> Term:
    """Mean over counted positions of the mean over D of the squared difference.

    `target` broadcasts against B T D. Padding never counts; `mask="answer"` also excludes the prompt.
    """
    error_BT = (hidden_BTD - target).pow(2).mean(-1)
    if mask == "all":
        return Term((error_BT * batch.attention_BT).sum(-1), "positions", side)
    counted_BT = torch.zeros_like(error_BT)
    for b, row in enumerate(batch.rows):
        counted_BT[b, row.prompt: len(row.ids)] = 1
    return Term((error_BT * counted_BT).sum(-1), "tokens", side)
