"""What a model says at the positions that predict a supervised token.

Legend: B rows, N supervised tokens (flat), V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional as F

from expunge.data.tokens import TokenBatch


class Answers:
    """Predictions at the supervised positions of a batch, flat: token n belongs to row row_N[n].

    Args:
        found: their logits, shape N V; or the answers of the forward passes they were computed in.
        order: with passes, which rows of `batch` their rows are, one pass after the other.
    """

    def __init__(self, batch: TokenBatch, found: Tensor | Sequence[Answers], order: Sequence[int] = ()) -> None:
        self.batch = batch
        self._found = found
        self._order = order

    @cached_property
    def logits_NV(self) -> Tensor:
        """Logits of every supervised token. Of several passes this is a copy; `tokenwise` does without."""
        return self._found if isinstance(self._found, Tensor) else self.tokenwise(lambda one: one.logits_NV)

    @cached_property
    def logp_N(self) -> Tensor:
        """log p(token | prefix) of every supervised token, float32."""
        return self.tokenwise(
            lambda one: -F.cross_entropy(one.logits_NV.float(), one.batch.target_N, reduction="none"))

    def tokenwise(self, values: Callable[[Answers], Tensor]) -> Tensor:
        """What `values` makes of every supervised token, asked pass by pass and put in the order of this batch."""
        if isinstance(self._found, Tensor):
            return values(self)
        return torch.cat([values(one) for one in self._found]).index_select(0, self._place_N)

    @cached_property
    def _place_N(self) -> Tensor:
        """Where each supervised token stands among those of all passes."""
        place, before = [range(0)] * len(self.batch), 0
        for b in self._order:
            row = self.batch.rows[b]
            place[b] = range(before, before := before + row.answer + row.end)
        return torch.tensor([n for tokens in place for n in tokens], device=self.batch.ids_BT.device)

    @cached_property
    def log_softmax_NV(self) -> Tensor:
        """Full log distribution, float32."""
        return F.log_softmax(self.logits_NV.float(), dim=-1)

    def per_row(self, values_N: Tensor) -> Tensor:
        """Sum token values within their rows: shape B."""
        return per_row(values_N, self.batch)

    def row_means(self, values_N: Tensor) -> Tensor:
        """Mean of token values within their rows: shape B."""
        return self.per_row(values_N) / self.per_row(torch.ones_like(values_N))


def per_row(values_N: Tensor, batch: TokenBatch) -> Tensor:
    """Sum token values within their rows: shape B."""
    total_B = torch.zeros(len(batch), dtype=values_N.dtype, device=values_N.device)
    return total_B.index_add(0, batch.row_N, values_N)
