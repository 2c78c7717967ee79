"""Promises of scopes, optimizers, combiners, samplers and presets."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch

from expunge.methods.base import Combine, Optimizer, Preset, Sampler, ScopePlugin

from ..support import (
    batch_of,
    distance,
    flat,
    gradient,
    memoriser,
    moved,
    same_random_state,
    small_task,
    stage_of,
    train,
    weights,
)
from .base import check, term

SIDES = ("forget", "retain")


@check(trains=True)
def scope_keeps_bits(plugin: type[ScopePlugin], options: dict[str, Any] | None = None) -> None:
    """(after - before)[outside] == 0 under AdamW with weight decay, and everything inside has moved."""
    before: dict[str, torch.Tensor] = {}
    recipe = f"npo + retain_nll + {term(plugin, options)} + adamw(lr=1e-3, weight_decay=0.5, warmup=0)"
    run = train(recipe, steps=4, prepare=lambda scope, method: before.update(weights(scope.subject)))
    after = weights(run.subject)
    for name, value in before.items():
        change = after[name] - value
        if name not in run.scope.names:
            assert bool((change == 0).all()), f"{name} is outside the scope and moved"
            continue
        mask = run.scope.masks.get(name, torch.ones_like(value, dtype=torch.bool))
        assert bool((change[~mask] == 0).all()), f"{name} moved outside its mask"
        assert bool((change[mask] != 0).any()), f"{name} may move and did not"


@check(trains=True)
def merged_equals_unmerged(plugin: type[ScopePlugin]) -> None:
    """Folding the trained adapter into the weights changes no output; switching it off gives the original."""
    subject = train(f"npo + retain_nll + {term(plugin)}", steps=6, lr=5e-3).subject
    batch = batch_of(subject, small_task().forget[:5])
    with torch.no_grad():
        apart = subject.answers(batch).logits_NV
        with subject.model.disable_adapter():
            off = subject.answers(batch).logits_NV
        subject.model = subject.model.merge_and_unload()
        subject.renamed()
        merged = subject.answers(batch).logits_NV
        start = memoriser().answers(batch).logits_NV
    assert float((apart - start).abs().max()) > 0.1
    torch.testing.assert_close(merged, apart, atol=1e-4, rtol=1e-4)
    assert torch.equal(off, start)


@check
def learning_rate_curve(plugin: type[Optimizer]) -> None:
    """Rises over the warm-up to its peak, never after; linear and cosine end near zero, constant stays."""
    total, per_epoch, peak = 50, 10, 0.5
    for schedule in ("linear", "cosine", "constant"):
        for warmup, length in ((1.0, 10), (0.0, 0), (9.0, 25)):  # at most half of all steps
            made = plugin(lr=peak, warmup=warmup, schedule=schedule)
            rates = [made.learning_rate(step, total, per_epoch) for step in range(total)]
            rising = np.diff(rates[: length + 1])
            assert (rising >= -1e-12).all() and (np.diff(rates[length:]) <= 1e-12).all()
            assert max(rates) == pytest.approx(peak) and min(rates) > 0
            if length:
                assert rates[0] == pytest.approx(peak / length)
            if schedule == "constant":
                assert rates[-1] == peak
            else:
                assert rates[-1] < 0.06 * peak
    assert plugin(lr=peak).learning_rate(0, 1, 1) == pytest.approx(peak), "a run of one step must move"


@check
def sum_of_gradients(plugin: type[Combine]) -> None:
    """The combination of both gradients is that of the summed loss; the inputs are not written to."""
    recipe = "npo(weight=0.7) + retain_nll(weight=1.3)"
    apart = gradient(recipe, moved(), original=memoriser(), separate=True)
    whole = gradient(recipe, moved(), original=memoriser(), separate=False)
    before = [flat(apart.forget).clone(), flat(apart.retain).clone()]
    combined = plugin()(apart.forget, apart.retain)
    assert distance(combined, whole.total()) < 1e-5
    assert torch.equal(flat(apart.forget), before[0]) and torch.equal(flat(apart.retain), before[1])


def _rows() -> dict[str, tuple[Any, ...]]:
    return {side: small_task().split(side) for side in SIDES}  # type: ignore[arg-type]


@check
def visits_every_forget_row(plugin: type[Sampler]) -> None:
    """Each epoch is a permutation of the forget rows, another one each time; partners are retain rows."""
    ids = [r.id for r in small_task().forget]
    kept = {r.id for r in small_task().retain}
    epochs = [plugin().order(_rows(), epoch, seed=3) for epoch in range(3)]
    for draws in epochs:
        assert sorted(d["forget"].id for d in draws) == sorted(ids)
        assert {d["retain"].id for d in draws} <= kept
    walks = {tuple(d["forget"].id for d in draws) for draws in epochs}
    assert len(walks) == 3 and tuple(ids) not in walks
    alone = plugin().order({"forget": small_task().forget, "retain": ()}, 0, seed=3)
    assert [d["forget"].id for d in alone] == [d["forget"].id for d in epochs[0]]
    assert all(set(d) == {"forget"} for d in alone)


@check
def ignores_global_random_state(plugin: type[Sampler]) -> None:
    """Same seed, same rows, whatever was drawn before; and nothing is drawn from the global state."""
    with same_random_state():
        first = plugin().order(_rows(), 1, seed=5)
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    assert plugin().order(_rows(), 1, seed=5) == first
    assert plugin().order(_rows(), 1, seed=6) != first


@check
def expands_to_a_recipe(plugin: type[Preset]) -> None:
    """The name means the sum it stands for, and any part of it can be replaced."""
    assert stage_of(plugin.card.name).full() == stage_of(plugin.expands_to).full()
    assert "retain_kl" in stage_of(f"{plugin.card.name} + retain_kl").full()
