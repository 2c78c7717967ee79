"""Continuations that somebody watches while they are decoded: who streams them, and who ends them early."""

from __future__ import annotations

from collections.abc import Collection, MutableMapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import StoppingCriteria, StoppingCriteriaList

if TYPE_CHECKING:
    from expunge.models.decoding import Watch


class WatchedRows(StoppingCriteria):
    """Tells `watch` of every row after every token, until the row ends.

    Args:
        prompts: which prompt each row of the batch continues.
        width: length of the padded prompts.
        stops: end tokens, of which nobody is told.
        ended: filled with the number of tokens after which `watch` ended a prompt's continuation.
    """

    def __init__(self, watch: Watch, prompts: Sequence[int], width: int, stops: Collection[int],
                 ended: MutableMapping[int, int]) -> None:
        self._watch, self._prompts, self._width = watch, prompts, width
        self._stops, self._ended = frozenset(stops), ended
        self._over = [False] * len(prompts)

    def __call__(self, input_ids: Tensor, scores: Any, **options: Any) -> Tensor:
        for b, tokens in enumerate(input_ids[:, self._width:].tolist()):
            if self._over[b] or not tokens:
                continue
            if tokens[-1] in self._stops:
                self._over[b] = True
            elif self._watch(self._prompts[b], tokens):
                self._over[b] = True
                self._ended[self._prompts[b]] = len(tokens)
        return torch.tensor(self._over, device=input_ids.device)


def watched(watch: Watch, prompts: Sequence[int], width: int, stops: Collection[int],
            ended: MutableMapping[int, int]) -> dict[str, Any]:
    """The option of `generate` that has one batch watched."""
    return {"stopping_criteria": StoppingCriteriaList([WatchedRows(watch, prompts, width, stops, ended)])}
