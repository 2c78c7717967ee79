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
from expunge.models.head import Found, LazyLogits, TokenLogP, rowwise, whole


class Answers:
    """Predictions at the supervised positions of a batch, flat: token n belongs to row row_N[n].

    Args:
        found: their logits, shape N V; or what they are made of, when somebody asks.
        past: keys and values of the rows, where they were kept.
    """

    def __init__(self, batch: Batch, found: Found, past: Any = None) -> None:
        self.batch = batch
        self._found = found
        self.past = past

    def split(self, batches: Sequence[Batch]) -> list[Answers]:
        """The answers of each batch, where this one has the rows of all of them one after another."""
        sizes, found = [b.count("tokens") for b in batches], self.found
        parts = ([replace(found, states_ND=part) for part in found.states_ND.split(sizes)]
                 if isinstance(found, LazyLogits) else whole(found).split(sizes))
        return [Answers(b, part) for b, part in zip(batches, parts, strict=True)]

    @property
    def found(self) -> Found:
        """Logits where there are any, else what they are made of."""
        return self.logits_NV if "logits_NV" in vars(self) else self._found

    @cached_property
    def logits_NV(self) -> Tensor:
        """Logits of every supervised token."""
        return whole(self._found)

    @cached_property
    def logp_N(self) -> Tensor:
        """log p(token | prefix) of every supervised token, in float32 or finer."""
        return rowwise(self.found, TokenLogP(self.batch.target_N))

    def reading(self) -> Tensor:
        """The same for whoever only looks: without gradient, nor what one would need."""
        if "logp_N" in vars(self):
            return self.logp_N.detach()
        found = self.found
        with torch.no_grad():
            return rowwise(replace(found, graded=False) if isinstance(found, LazyLogits) else found,
                           TokenLogP(self.batch.target_N))

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
