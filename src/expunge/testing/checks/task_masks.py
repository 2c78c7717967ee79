"""Promises of edits that negate a task vector within a mask, that scale an adapter, and of neurons as a scope."""

from __future__ import annotations

import sys

import pytest
import torch

from expunge.methods._lib.task_masks import consensus_mask, parts_of, summed, tall_mask
from expunge.methods.base import Edit, ScopePlugin

from .. import planted
from ..support import fresh, small_task, token_rows
from .base import check


@check
def masks_by_definition(plugin: type[Edit]) -> None:
    """Of one task all that moved, whatever lambda; less with a larger one; disjoint tasks whole; counts of masks."""
    source = torch.Generator().manual_seed(0)
    tasks = [{"w": torch.randn(6, 50, generator=source), "b": torch.zeros(4)} for _ in range(3)]
    alone = tall_mask(tasks[0], tasks[0], 0.6)
    assert bool(alone["w"].all()) and not alone["b"].any()
    total = summed(tasks)
    sizes = [int(tall_mask(tasks[0], total, at)["w"].sum()) for at in (0.0, 0.2, 0.6, 2.0)]
    assert sizes[0] == 300 and sizes == sorted(sizes, reverse=True) and len(set(sizes)) == 4
    for i in range(6):
        for j in range(50):
            v, rest = float(tasks[1]["w"][i, j]), float(tasks[0]["w"][i, j] + tasks[2]["w"][i, j])
            assert bool(tall_mask(tasks[1], total, 0.4)["w"][i, j]) == (abs(v) > 0.4 * abs(rest))
    halves = [{"w": tasks[0]["w"] * keep} for keep in (torch.arange(50) < 20, torch.arange(50) >= 20)]
    for half in halves:
        assert torch.equal(tall_mask(half, summed(halves), 1e6)["w"], half["w"] != 0)
    masks = [tall_mask(task, total, 0.4) for task in tasks]
    assert bool(consensus_mask(masks, 0)["w"].all()) and not consensus_mask(masks, 4)["w"].any()
    counts = torch.stack([mask["w"] for mask in masks]).sum(0)
    assert torch.equal(consensus_mask(masks, 2)["w"], counts >= 2)
    chosen = plugin(threshold=0.4).mask(tasks)  # type: ignore[attr-defined]
    own = masks[0]["w"]
    assert torch.equal(chosen["w"], own if plugin.card.name == "tall_masks" else own & (counts == 1))
    parts = parts_of(small_task(), 2, 0)
    assert sum(map(len, parts)) == len(small_task().retain)
    assert not {r.entity for r in parts[0]} & {r.entity for r in parts[1]}


@check
def strengthens_by_hand(plugin: type[Edit]) -> None:
    """The largest quarter of four matrices times the factor; nothing with factor 1 or share 0."""
    strengthened = sys.modules[plugin.__module__].strengthened
    changes = {name: size * torch.ones(2, 3) for name, size in (("a", 1.0), ("b", -4.0), ("c", 2.0), ("d", 0.5))}
    found = strengthened(changes, 0.25, 1.75)
    assert torch.equal(found["b"], 1.75 * changes["b"])
    assert all(torch.equal(found[name], changes[name]) for name in "acd")
    for share, factor in ((0.0, 9.0), (1.0, 1.0)):
        assert all(torch.equal(v, changes[n]) for n, v in strengthened(changes, share, factor).items())


@check
def finds_planted_units(plugin: type[ScopePlugin]) -> None:
    """Of four names the first neuron is the planted one; only its row into the MLP and its column out may move."""
    for name in planted.NAMES[:4]:
        subject, (block, neuron) = fresh(planted.planted()), planted.PLACES[name]
        scope = plugin(share=1 / 256).apply(subject, token_rows(subject, [planted.fact(name)], []))
        assert set(scope.names) == {f"model.layers.{block}.mlp.{part}_proj.weight" for part in ("gate", "up", "down")}
        for part, mask in scope.masks.items():
            across = mask.any(0) if "down" in part else mask.any(1)
            assert across.nonzero().flatten().tolist() == [neuron], part
            assert int(mask.sum()) == planted.WIDTH
    with pytest.raises(Exception, match="no forget rows"):
        plugin().apply(fresh(planted.planted()), {"forget": []})
