"""Promises of S3T: what a deletion still serves never saw the rows, and it lasts as long as the theory says."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from expunge.exact.ledger import NAME, Checkpoint, Ledger, ShardPlace, ShardPlan
from expunge.exact.orders import expected_hits, matched, rotations
from expunge.exact.shards import STORE, adapter_of, path_of
from expunge.exact.sisa import Sisa
from expunge.models.load import load_subject
from expunge.plugin import Plugin

from .base import check
from .exact import FEW, delete, files, of_slice, sharded

RUNS, LONGEST = 2000, 800


def trained(plugin: type[Plugin], without: tuple[str, ...] | None = None) -> Any:
    """A model of two orders a shard, (0, 1) and (1, 0), trained on all rows but those named."""
    return sharded(plugin, without)  # type: ignore[arg-type]


@check(trains=True)
def serves_what_never_saw(plugin: type[Plugin]) -> None:
    """A deletion trains nothing and serves, byte for byte, what training without the slice it hit serves."""
    folder = trained(plugin)
    ledger = Ledger.read(folder / NAME)
    row = of_slice(ledger, 0, 0)
    found, figures = delete(plugin, folder, [row])
    after = Ledger.read(found / NAME)
    assert figures["retrained"] == {} and figures["rows_walked"] == 0 == figures["share_of_work"]
    assert set(figures["dropped"]) == set(ledger.checkpoints_with([row])) == {"0.0.0", "0.0.1", "0.1.1"}
    assert figures["serving"] == {0: {"order": 1, "stages": 1}, 1: {"order": 0, "stages": 2}}
    served = [stage for run in after.serving() for stage in run]
    assert not any(row in after.checkpoints[stage.name].saw for stage in served) and row not in after.rows
    left = files(found)
    assert len(left) == 1 + 1 + 1 + 4  # weights, ledger, one stage of shard 0 and all of shard 1
    slice_ = tuple(name for name, p in ledger.rows.items() if (p.shard, p.slice) == (0, 0))
    assert len(slice_) > 1
    never = files(trained(plugin, slice_))
    assert {n: b for n, b in left.items() if n != NAME} == {n: b for n, b in never.items() if n != NAME}
    # Nor does any stage that is kept depend on the row where its slice goes on without it.
    alone = files(trained(plugin, (row,)))
    kept = [name for name in left if name.startswith(STORE)]
    assert kept and all(left[name] == alone[name] for name in kept)
    other = next(name for name in slice_ if name != row)
    again, figures = delete(plugin, found, [other])  # its slice is gone already
    assert figures["dropped"] == [] and {n: b for n, b in files(again).items() if n != NAME} == {
        n: b for n, b in left.items() if n != NAME}


@check(trains=True)
def retrains_a_dead_shard(plugin: type[Plugin]) -> None:
    """When every order of a shard is hit it is trained again: every file is that of training without the rows."""
    folder = trained(plugin)
    ledger = Ledger.read(folder / NAME)
    names = (of_slice(ledger, 0, 0), of_slice(ledger, 0, 1))
    found, figures = delete(plugin, folder, names)
    assert set(figures["retrained"]) == {"0.0.0", "0.0.1", "0.1.0", "0.1.1"} and len(figures["untouched"]) == 4
    assert files(found) == files(trained(plugin, names))
    one, _ = delete(plugin, folder, names[:1])
    both, _ = delete(plugin, one, names)
    assert files(both) == files(found)


@check(trains=True)
def stages_keep_apart(plugin: type[Plugin]) -> None:
    """Each stage moves its own group of blocks, the last blocks first; together they are all that moves."""
    folder = trained(plugin)
    ledger = Ledger.read(folder / NAME)
    ensemble: Any = load_subject(folder)
    for shard, run in enumerate(ledger.serving()):
        groups = [adapter_of(path_of(folder / STORE, stage)) for stage in run]
        blocks = [{int(name.split("layers.")[1].split(".")[0]) for name in group} for group in groups]
        assert blocks == [{2}, {0, 1}] or blocks == [{1, 2}, {0}]
        assert all(float(value.abs().max()) > 0 for group in groups for value in group.values())
        together = {name: value for group in groups for name, value in group.items()}
        served = ensemble.model.shard(shard)
        assert served.keys() == together.keys() and all(torch.equal(served[n], together[n]) for n in served)


def blank(shards: int, slices: int, orders: Any) -> Ledger:
    """One row in each slice, every checkpoint made, no weights."""
    plan = ShardPlan(shards=shards, slices=slices, rank=1, alpha=1, dropout=0, targets="all-linear", lr=1,
                     average="logprob", epochs=1, steps=None, batches=1, batch_size=1, seed=0, template=None,
                     max_length=None, orders=orders)
    rows = {f"{k}/{s}": ShardPlace(shard=k, slice=s, content="") for k in range(shards) for s in range(slices)}
    ledger = Ledger(plan=plan, base="", rows=rows, checkpoints={}, served="")
    made = {stage.name: Checkpoint(saw=tuple(ledger.members(stage)), checksum="", visits=0)
            for stage in ledger.stages()}
    return ledger.model_copy(update={"checkpoints": made})


def hits_until_nothing_serves(ledger: Ledger) -> np.ndarray:
    """Numbers of uniform hits of slices, without training, until no order has a first stage; one for every run."""
    names, first = list(ledger.rows), [stage for stage in ledger.stages() if stage.number == 0]
    hits = np.random.default_rng(0).integers(len(names), size=(RUNS, LONGEST))
    when = np.stack([np.where((hits == i).any(1), (hits == i).argmax(1), LONGEST) for i in range(len(names))])
    dead = [when[[i for i, name in enumerate(names) if stage in ledger.touched([name])]].min(0) for stage in first]
    return np.stack(dead).max(0) + 1


@check
def lasts_as_stated(plugin: type[Plugin]) -> None:
    """The mean number of hits until nothing serves is m L H_n within the error of the simulation."""
    for orders, stated in zip(range(1, 7), (68.5, 87.9, 99.5, 107.9, 114.5, 119.8), strict=True):
        assert expected_hits(5, 6, orders) == pytest.approx(stated, abs=0.05)
        for made in (rotations(6, orders), matched([0.1] * 6, orders)):
            assert len({order[0] for order in made}) == orders and all(sorted(o) == list(range(6)) for o in made)
        if orders in (1, 3, 6):
            found = hits_until_nothing_serves(blank(5, 6, rotations(6, orders)))
            error = found.std() / RUNS ** 0.5
            assert found.max() < LONGEST and abs(found.mean() - stated) < 4 * error
    # Where slices are hit unevenly, the matching keeps the likeliest out of the prefixes: it comes last.
    uneven = matched([0.4, 0.01, 0.02, 0.03], 3)
    assert [order[0] for order in uneven].count(0) == 0 and sum(order[-1] == 0 for order in uneven) >= 1


@check(trains=True)
def one_stage_is_sharding(plugin: type[Plugin]) -> None:
    """With one order of one slice, every tensor is that of plain sharding."""
    folders = [sharded(plugin, slices=1, orders=1), sharded(Sisa, slices=1)]  # type: ignore[arg-type]
    found, expected = (load_subject(folder).model for folder in folders)
    for shard in range(FEW["shards"]):
        mine, theirs = found.shard(shard), expected.shard(shard)
        assert mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)
