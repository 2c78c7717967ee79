"""Promises of sparse unlearning: pruned weights, and a penalty on the sum of absolute weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from expunge.methods.base import Objective, ScopePlugin

from ..support import (
    batches_of,
    draws_of,
    flat,
    fresh,
    gradient,
    memoriser,
    moved,
    train,
    weights,
)
from .base import check, term


@check(trains=True)
def pruned_stays_zero(plugin: type[ScopePlugin], sparsity: float) -> None:
    """The smallest elements of all matrices of the blocks together, ranked by sorting."""
    start: dict[str, torch.Tensor] = {}
    recipe = f"npo + retain_nll + {term(plugin, {'sparsity': sparsity})} + adamw(lr=1e-3, weight_decay=0.5, warmup=0)"
    run = train(recipe, steps=3, prepare=lambda scope, method: start.update(weights(scope.subject)))
    before, after = weights(memoriser()), weights(run.subject)
    matrices = [n for n, w in before.items() if w.dim() > 1 and "embed" not in n and "head" not in n]
    whole = flat([before[n].abs() for n in matrices])
    border = whole.sort().values[round(sparsity * len(whole)) - 1]
    pruned = kept = 0
    for name, weight in before.items():
        zero = weight.abs() <= border if name in matrices else torch.zeros_like(weight, dtype=torch.bool)
        assert torch.equal(start[name][~zero], weight[~zero]), name
        assert not start[name][zero].any() and not after[name][zero].any(), name
        pruned, kept = pruned + int(zero.sum()), kept + int((after[name] != start[name]).sum())
    assert pruned == pytest.approx(sparsity * len(whole), abs=2) and kept > 0.9 * (run.scope.counts()["trainable"])


@check
def without_penalty_is_finetuning(plugin: type[Objective]) -> None:
    """The gradient is that of likelihood on the same rows, and what gamma adds is gamma times the signs."""
    batch = batches_of(memoriser(), draws_of(term(plugin), memoriser()))["kept"]
    plain = gradient("retain_nll", moved(), batches=[{"retain": batch}]).total()
    mine = gradient(term(plugin, {"gamma": 0.0}), moved(), batches=[{"kept": batch}]).total()
    assert torch.equal(flat(mine), flat(plain))
    more = gradient(term(plugin, {"gamma": 0.01}), moved(), batches=[{"kept": batch}]).total()
    signs = flat([w.sign() for w in weights(moved()).values()])
    torch.testing.assert_close(flat(more) - flat(plain), 0.01 * signs, atol=1e-6, rtol=0)


@check
def penalty_fades(plugin: type[Objective]) -> None:
    """Whole at the first step, half after 40 of 100, none from 80 on with a free share of a fifth."""
    made: Any = plugin(free=0.2)
    found = []
    for number in (0, 40, 80, 99):
        made.begin(number, 100)
        found.append(made._factor)
    assert found == pytest.approx([1.0, 0.5, 0.0, 0.0])


@check(trains=True)
def weights_shrink(plugin: type[Objective], gammas: Sequence[float]) -> None:
    """After the same steps the sum of absolute weights is smaller for every larger gamma."""
    ends = [train(term(plugin, {"gamma": gamma}), steps=8, subject=fresh(), lr=1e-3).subject for gamma in gammas]
    sizes = [float(flat(list(weights(subject).values())).abs().sum()) for subject in ends]
    assert sizes == sorted(sizes, reverse=True) and sizes[-1] < 0.98 * sizes[0], sizes
