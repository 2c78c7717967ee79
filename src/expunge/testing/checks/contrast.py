"""Promises of WPN: pooled states and the n-pair loss.

Legend: B rows, T padded length, D hidden size, K negatives.
"""

from __future__ import annotations

import random

import pytest
import torch
from torch.nn import functional as F

from expunge.methods.base import Objective
from expunge.methods.objectives.wpn import n_pair, pooled, position_weights

from ..support import batch_of, memoriser, small_task
from .base import check


@check
def pools_by_position(plugin: type[Objective]) -> None:
    """Row by row against a plain mean; the same whatever stands in the padding."""
    batch = batch_of(memoriser(), sorted(small_task().forget, key=lambda row: len(row.answer))[::5])
    assert bool((batch.attention_BT == 0).any()), "no row is padded, so nothing is shown"
    hidden_BTD = torch.randn(*batch.ids_BT.shape, 4, generator=torch.Generator().manual_seed(0))
    for answer in (True, False):
        weight_BT = position_weights(batch, answer)
        torch.testing.assert_close(weight_BT.sum(1), torch.ones(len(batch)))
        for b, row in enumerate(batch.rows):
            start, stop = (row.prompt, len(row.ids)) if answer else (0, row.prompt)
            total = sum(range(1, stop - start + 1))
            expected = [(t - start + 1) / total if start <= t < stop else 0.0 for t in range(weight_BT.shape[1])]
            assert weight_BT[b].tolist() == pytest.approx(expected, rel=1e-6)
        garbage_BTD = hidden_BTD.masked_fill(batch.attention_BT[..., None] == 0, 1e6)
        torch.testing.assert_close(pooled(garbage_BTD, weight_BT), pooled(hidden_BTD, weight_BT))
        torch.testing.assert_close(pooled(hidden_BTD, weight_BT).norm(dim=-1), torch.ones(len(batch)))


@check
def n_pair_by_hand(plugin: type[Objective]) -> None:
    """With one negative a softplus; more similar positives lower it, more similar negatives raise it."""
    source = torch.Generator().manual_seed(0)
    anchor_BD, positive_BD, negative_BD, other_BD = F.normalize(torch.randn(4, 9, 5, generator=source), dim=-1)
    one_B = n_pair(anchor_BD, positive_BD, negative_BD[:, None], 0.5)
    gap_B = ((negative_BD - positive_BD) * anchor_BD).sum(-1) / 0.5
    torch.testing.assert_close(one_B, F.softplus(gap_B))
    two_BKD = torch.stack([negative_BD, other_BD], 1)
    two_B = n_pair(anchor_BD, positive_BD, two_BKD, 0.5)
    other_B = ((other_BD - positive_BD) * anchor_BD).sum(-1) / 0.5
    torch.testing.assert_close(two_B, torch.log1p(gap_B.exp() + other_B.exp()))
    assert bool((two_B > one_B).all())
    nearer_BD = positive_BD + 0.1 * anchor_BD
    assert bool((n_pair(anchor_BD, nearer_BD, two_BKD, 0.5) < two_B).all())
    assert bool((n_pair(anchor_BD, positive_BD, two_BKD + 0.1 * anchor_BD[:, None], 0.5) > two_B).all())


@check
def negatives_are_forget_answers(plugin: type[Objective]) -> None:
    """As many as asked for, none twice, drawn with the given source; with one, none but its own."""
    task = small_task()
    for count in (1, 3, 5):
        made = plugin(negatives=count)
        first, again, later = (made.sides(task.forget[0], task, random.Random(seed)) for seed in (1, 1, 2))
        names = [side for side in first if side.startswith("negative_")]
        assert len(names) == count - 1 and first == again
        assert first["forget"] == task.forget[0] and first["refusal"].prompt == task.forget[0].prompt
        drawn = [first[name] for name in names]
        assert len({row.id for row in drawn} | {task.forget[0].id}) == count and set(drawn) <= set(task.forget)
        assert count == 1 or first != later
