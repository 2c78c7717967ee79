"""What a model says at the positions that predict a supervised token.

Legend: B rows, N supervised tokens (flat), V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from expunge.data.encoder import Batch
from expunge.models.head import LazyLogits, LogitSource, all_logits, token_logp


class Answers:
    """Predictions at the supervised positions of a batch, flat: token n belongs to row row_N[n].

    Args:
        source: their logits, shape N V, or what makes them when they are asked for.
        past: keys and values of the rows, where they were kept.
    """

    def __init__(self, batch: Batch, source: LogitSource, past: Any = None) -> None:
        self.batch = batch
        self._source = source
        self.past = past

    def split(self, batches: Sequence[Batch]) -> list[Answers]:
        """The answers of each batch, where this one has the rows of all of them one after another."""
        sizes, source = [b.count("tokens") for b in batches], self.source
        parts = ([replace(source, states_ND=part) for part in source.states_ND.split(sizes)]
                 if isinstance(source, LazyLogits) else source.split(sizes))
        return [Answers(b, part) for b, part in zip(batches, parts, strict=True)]

    @property
    def source(self) -> LogitSource:
        """Logits where there are any, else what makes them."""
        return self.logits_NV if "logits_NV" in vars(self) else self._source

    @cached_property
    def logits_NV(self) -> Tensor:
        """Logits of every supervised token."""
        return all_logits(self._source)

    @cached_property
    def logp_N(self) -> Tensor:
        """log p(token | prefix) of every supervised token, in float32 or finer."""
        return token_logp(self.source, self.batch.target_N)

    def detached_logp(self) -> Tensor:
        """`logp_N` under no_grad: builds no graph and keeps nothing for a backward pass."""
        if "logp_N" in vars(self):
            return self.logp_N.detach()
        source = self.source
        with torch.no_grad():
            return token_logp(replace(source, requires_grad=False) if isinstance(source, LazyLogits) else source,
                              self.batch.target_N)

    def per_row(self, values_N: Tensor) -> Tensor:
        """Sum token values within their rows: shape B."""
        return per_row(values_N, self.batch)

    def row_means(self, values_N: Tensor) -> Tensor:
        """Mean of token values within their rows: shape B."""
        return self.per_row(values_N) / self.per_row(torch.ones_like(values_N))


def per_row(values_N: Tensor, batch: Batch) -> Tensor:
    """Sum token values within their rows: shape B."""
    total_B = torch.zeros(len(batch), dtype=values_N.dtype, device=values_N.device)
    return total_B.index_add(0, batch.row_N, values_N)


class ToldScores:
    """What an endpoint tells of the answer of one row: log p of each token, and whether it was the likeliest."""

    def __init__(self, logp: Sequence[float], hit: Sequence[bool]) -> None:
        self.logp, self.hit = list(logp), list(hit)
