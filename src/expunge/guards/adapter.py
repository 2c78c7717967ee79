"""A low-rank adapter (LoRA) and the module that adds it to a frozen layer."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class Adapter(nn.Module):
    """x -> (alpha / rank) * B A dropout(x), in the precision of its own weights; no change at the start (B = 0).

    Args:
        inputs, outputs: sizes of the layer it is added to.
    """

    def __init__(self, inputs: int, outputs: int, rank: int, alpha: float, dropout: float) -> None:
        super().__init__()
        self.down = nn.Linear(inputs, rank, bias=False)
        self.up = nn.Linear(rank, outputs, bias=False)
        self.dropout = nn.Dropout(dropout)
        self.scale = alpha / rank

    @torch.no_grad()
    def start(self, generator: torch.Generator) -> None:
        """Initialise as usual: A uniform within 1 / sqrt(inputs), B zero."""
        bound = 1 / math.sqrt(self.down.in_features)
        initial = torch.rand(self.down.weight.shape, generator=generator) * 2 * bound - bound
        self.down.weight.copy_(initial)
        self.up.weight.zero_()

    def forward(self, x: Tensor) -> Tensor:
        change: Tensor = self.up(self.down(self.dropout(x.to(self.down.weight.dtype)))) * self.scale
        return change


class Adapted(nn.Module):
    """A frozen layer plus its adapter; replaces the layer in its model."""

    def __init__(self, base: nn.Module, adapter: Adapter) -> None:
        super().__init__()
        self.base = base
        self.adapter = adapter

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.base(x)
        return out + self.adapter(x).to(out.dtype)
