"""Promises of objectives on hidden states: where they aim, which coordinates they choose, which weights they spare.

Legend: D hidden size.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from expunge.methods._lib.activations import counted
from expunge.methods._lib.probe_directions import states_of
from expunge.methods.base import Objective
from expunge.metrics.layers import out_of_fold_logits
from expunge.models.language import CausalLM
from expunge.records.task import Example

from ..support import batch_of, memoriser, small_task, stage_of, train, trained
from .base import check, term
from .dynamics import activations


@check
def finds_own_coordinates(plugin: type[Objective]) -> None:
    """Coordinates that carry a signal on forget text alone: the support of the difference, on top of the ratio."""
    importance = sys.modules[plugin.__module__].importance
    for seed, own in ((0, (3,)), (1, (0, 7, 15)), (2, (1, 2, 4, 8, 11))):
        draw = torch.Generator().manual_seed(seed)
        retain_D = 0.5 + torch.rand(16, generator=draw)
        forget_D = retain_D * (1 - 0.2 * torch.rand(16, generator=draw))
        forget_D[list(own)] *= 6
        difference_D, ratio_D, product_D = (importance(forget_D, retain_D, kind)
                                            for kind in ("difference", "ratio", "product"))
        assert set(difference_D.nonzero()[:, 0].tolist()) == set(own)
        assert set(ratio_D.argsort(descending=True)[: len(own)].tolist()) == set(own)
        assert all(float(m.max()) <= 1 and float(m.min()) >= 0 for m in (difference_D, ratio_D, product_D))
    assert torch.equal(importance(forget_D, retain_D, "none"), torch.ones(16))


@check(trains=True)
def shifts_where_it_aims(plugin: type[Objective], options: dict[str, Any]) -> None:
    """Coordinate by coordinate the mean forget activation moves as far as it stood from the target."""
    recipe = term(plugin, options)
    source = stage_of(recipe).objective
    subject, block = trained(recipe, steps=60, lr=1e-2).subject, source.block(len(memoriser().blocks))  # type: ignore
    before_D, after_D = (activations(s, small_task().forget, block).mean(0) for s in (memoriser(), subject))
    wanted_D = source.target(len(before_D)) - before_D  # type: ignore[union-attr]
    assert float(torch.corrcoef(torch.stack([after_D - before_D, wanted_D]))[0, 1]) > 0.9


@check
def softens_relu(plugin: type[Objective]) -> None:
    """Large beta: relu of the cosine, so states beyond orthogonal are left alone. Small beta: half its slope."""
    deviation = sys.modules[plugin.__module__].deviation
    draw = torch.Generator().manual_seed(0)
    now, before = (torch.randn(3, 5, 8, generator=draw, dtype=torch.float64) for _ in range(2))
    cosine = torch.cosine_similarity(now, before, dim=-1)
    torch.testing.assert_close(deviation(now, before, 1e4), cosine.clamp_min(0), atol=1e-4, rtol=0)
    now.requires_grad_(True)
    soft, half = (torch.autograd.grad(v.sum(), now)[0] for v in (
        deviation(now, before, 1e-6), 0.5 * torch.cosine_similarity(now, before, dim=-1)))
    torch.testing.assert_close(soft, half, atol=1e-6, rtol=1e-5)


@check(trains=True)
def turns_away(plugin: type[Objective], forget: float, retain: float, unrelated: bool = False,
               options: dict[str, Any] | None = None) -> None:
    """Mean cosine of answer states to the original's: below `forget` on forget rows, above `retain` on retain rows.

    Args:
        unrelated: forget rows are nonsense, without the words of retain rows, and states of blocks 0 and 1 are read.
    """
    rows = _nonsense() if unrelated else small_task().forget
    recipe = term(plugin, options or {"width": 2})
    subject = (train(recipe, steps=40, lr=1e-2, forget=rows) if unrelated else
               trained(recipe, steps=60, lr=1e-2, watch=10)).subject
    found = []
    for side in (rows, small_task().retain):
        cosines = [torch.cosine_similarity(answer_states(memoriser(), side, block), answer_states(subject, side, block),
                                           dim=-1).mean() for block in ((0, 1) if unrelated else (1,))]
        found.append(float(torch.stack(cosines).mean()))
    assert found[0] < forget and found[1] > retain, found


def _nonsense(count: int = 18) -> tuple[Example, ...]:
    """Rows of words that occur nowhere else."""
    draw = random.Random(0)

    def words(number: int) -> str:
        return " ".join("".join(draw.choices("0123456789#%&*+=", k=5)) for _ in range(number))

    return tuple(Example(id=f"nonsense {i}", prompt=words(5), answer=words(6), entity=f"n{i}") for i in range(count))


def answer_states(subject: CausalLM, rows: Sequence[Example], block: int) -> Tensor:
    """Output of a block at all answer positions, one below the other."""
    batch = batch_of(subject, rows)
    with torch.no_grad():
        return subject.hidden(batch, block)[counted(batch, "answer")]


@check
def distance_along_the_probe(plugin: type[Objective]) -> None:
    """By hand; nothing across the direction counts, and none of a block's moves another block's part."""
    misalignment = sys.modules[plugin.__module__].misalignment
    draw = torch.Generator().manual_seed(0)
    one, two = (torch.randn(4, 3, 8, generator=draw, dtype=torch.float64) for _ in range(2))
    normal_LD = torch.nn.functional.normalize(torch.randn(3, 8, generator=draw, dtype=torch.float64), dim=-1)
    found = misalignment(one, two, normal_LD)
    for b in range(4):
        by_hand = sum(float((one[b, i] - two[b, i]) @ normal_LD[i]) ** 2 for i in range(3)) / 3
        assert abs(float(found[b]) - by_hand) < 1e-12
    across = one - (one * normal_LD).sum(-1, keepdim=True) * normal_LD
    torch.testing.assert_close(misalignment(one + across, two, normal_LD), found)


@check(trains=True)
def aligns_pairs(plugin: type[Objective], share: float) -> None:
    """Mean squared distance of pairs along the directions of the probe at the start, after training over before."""
    recipe = term(plugin, {"every": 10})
    source = stage_of(recipe).objective
    normal_LD = torch.tensor(source.made["directions"], dtype=torch.float64)  # type: ignore[union-attr]
    apart = []
    for subject in (memoriser(), trained(recipe, steps=40, lr=3e-3).subject):
        states = _pairs(subject, list(range(len(normal_LD))))
        apart.append(float(sys.modules[plugin.__module__].misalignment(*states, normal_LD).mean()))
    assert apart[1] < share * apart[0], apart


def _pairs(subject: CausalLM, blocks: Sequence[int]) -> list[Tensor]:
    """Last states of forget rows and of their control rows, n L D each."""
    task = small_task()
    controls = [task.retain[i % len(task.retain)] for i in range(len(task.forget))]
    return [states_of(subject, rows, blocks) for rows in (task.forget, controls)]


@check(trains=True)
def probe_falls_below_chance(plugin: type[Objective]) -> None:
    """Pairs held out in turn, a probe on the others: mostly right before the alignment, mostly wrong after it."""
    found = []
    for subject in (memoriser(), trained(term(plugin, {"every": 10}), steps=40, lr=3e-3).subject):
        states = np.concatenate([part[:, -1].numpy() for part in _pairs(subject, range(len(memoriser().blocks)))])
        label_n, fold_n = np.repeat([1, 0], len(states) // 2), np.tile(np.arange(len(states) // 2), 2)
        found.append(float(((out_of_fold_logits(states, label_n, fold_n) > 0) == label_n).mean()))
    assert found[0] > 0.7 and found[1] < 0.5, found
