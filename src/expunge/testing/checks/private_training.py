"""Promises of a base trained under differential privacy: clipping, noise, accounting, and deletions from it."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import cache
from math import inf
from typing import Any

import pytest
import torch

from expunge.exact.ledger import NAME, Ledger
from expunge.exact.noisy_training import clipped_by_ghosts, clipped_one_by_one, ghosts, loss_of_rows, train_noisily
from expunge.exact.privacy import epsilon_of, group_bound, noise_for
from expunge.exact.sisa import Sisa
from expunge.methods.run_context import RunContext
from expunge.metrics.canary_bound import one_run_bound
from expunge.models.adapter import add_adapter
from expunge.models.language import CausalLM
from expunge.models.load import load_subject
from expunge.models.scope import Scope
from expunge.models.tiny import build_subject
from expunge.plugin import Plugin
from expunge.records.settings import RunSettings
from expunge.records.task import Example
from expunge.seeding import stream

from ..support import CONFIG, small_task
from .base import check
from .exact import files, row_task, save

CLIP = 0.3
QUICK: dict[str, Any] = {"noise": 1.0, "dp_epochs": 1.0, "lr": 1e-2, "batches": 4, "rank": 4, "delta": 1e-3}


@cache
def _start() -> CausalLM:
    return build_subject(CONFIG, small_task().texts())


def start() -> CausalLM:
    """A small model that was not trained; a copy."""
    return _start().around(copy.deepcopy(_start().model))


def rows_of(count: int = 8) -> list[Example]:
    return [*small_task().holdout[: count // 2], *small_task().retain[: count - count // 2]]


def adapted() -> tuple[CausalLM, Any, list[Any]]:
    subject = start()
    scope = add_adapter(subject, rank=4, seed=1)
    with torch.no_grad():
        for i, parameter in enumerate(scope.parameters.values()):
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(i)) * 0.05)
    return subject, scope, [subject.encoder.encode(row) for row in rows_of()]


@check(trains=True)
def clips_every_row(plugin: type[Plugin]) -> None:
    """A row adds at most the clipping norm; ghost clipping gives the sum of rows one by one; noise comes each step."""
    pytest.importorskip("opacus", reason="extra dp is not installed")
    subject, scope, rows = adapted()
    for row in rows:
        parts = clipped_one_by_one(subject, scope, [row], CLIP)
        norm = float(torch.stack([part.norm() for part in parts]).norm())
        assert norm <= CLIP + 1e-6
    free = clipped_one_by_one(subject, scope, rows[:1], inf)
    assert float(torch.stack([part.norm() for part in free]).norm()) > 2 * CLIP
    slow = clipped_one_by_one(subject, scope, rows, CLIP)
    with ghosts(subject, CLIP) as wrapped:
        fast = clipped_by_ghosts(subject, scope, rows, CLIP, wrapped)
        assert all(not bool(part.any()) for part in clipped_by_ghosts(subject, scope, [], CLIP, wrapped))
    for a, b in zip(slow, fast, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-3)
    before = [p.detach().clone() for p in scope.parameters.values()]
    sizes = train_noisily(subject, scope, rows, steps=1, rate=1e-9, clip=CLIP, noise=1e-9, lr=1.0,
                          generator=torch.Generator().manual_seed(0), ghost=False)
    assert sizes == [0]
    moved = [p.detach() - b for p, b in zip(scope.parameters.values(), before, strict=True)]
    # rate * rows = 8e-9 divides noise of 1e-9 * CLIP
    assert float(torch.cat([m.flatten() for m in moved]).std()) == pytest.approx(CLIP / 8, rel=0.05)


@check
def accounts_for_noise(plugin: type[Plugin]) -> None:
    """Epsilon grows with steps and rows of an entity, falls with noise, and the noise found for it keeps it."""
    pytest.importorskip("dp_accounting", reason="extra dp is not installed")
    by_steps = [epsilon_of(1.0, 0.1, steps, 1e-5) for steps in (0, 1, 10, 100)]
    assert by_steps[0] == 0.0 and by_steps == sorted(by_steps) and len(set(by_steps)) == 4
    by_noise = [epsilon_of(noise, 0.1, 10, 1e-5) for noise in (0.7, 1.0, 2.0)]
    assert by_noise == sorted(by_noise, reverse=True) and epsilon_of(0.0, 0.1, 10, 1e-5) == inf
    by_rows = [epsilon_of(1.0, 0.1, 10, 1e-5, rows) for rows in (1, 2, 4)]
    assert by_rows == sorted(by_rows) and by_rows[2] > 2 * by_rows[0]
    assert group_bound(1.0, 1e-5, 1) == (1.0, 1e-5) and group_bound(10.0, 1e-5, 20) == (200.0, 1.0)
    noise = noise_for(2.0, 0.2, 5, 1e-4)
    assert epsilon_of(noise, 0.2, 5, 1e-4) <= 2.0 < epsilon_of(noise * 0.97, 0.2, 5, 1e-4)


@check(trains=True)
def no_noise_is_sgd(plugin: type[Plugin]) -> None:
    """Without noise and clipping a step is SGD on the sampled rows; without steps the base is the start."""
    pytest.importorskip("dp_accounting", reason="extra dp is not installed")
    subject, scope, rows = adapted()
    other, theirs, _ = adapted()
    train_noisily(subject, scope, rows, steps=3, rate=0.5, clip=inf, noise=0.0, lr=0.1,
                  generator=torch.Generator().manual_seed(3), ghost=False)
    generator, optimizer = torch.Generator().manual_seed(3), torch.optim.SGD(theirs.parameters.values(), lr=0.1)
    for _ in range(3):
        chosen = [row for row, u in zip(rows, torch.rand(len(rows), generator=generator), strict=True) if u < 0.5]
        optimizer.zero_grad()
        (loss_of_rows(other, chosen).sum() / (0.5 * len(rows))).backward()
        optimizer.step()
    for mine, expected in zip(scope.parameters.values(), theirs.parameters.values(), strict=True):
        torch.testing.assert_close(mine, expected, atol=1e-5, rtol=1e-4)
    # With no step, what is left after a deletion is the start fine-tuned on the rows that stay.
    still = trained(plugin, dp_epochs=0.0)
    gone = rows_of()[:2]
    found, figures = deleted(plugin, still, gone)
    plain = Sisa(shards=1, slices=1, **{k: QUICK[k] for k in ("lr", "batches", "rank")})
    kept = [r for r in rows_of() if r not in gone]
    expected = plain.train(start(), kept, RunContext(settings=RunSettings(steps=6)))[0].model
    mine_of, theirs_of = load_subject(found).model.state_dict(), expected.state_dict()
    assert mine_of.keys() == theirs_of.keys() and all(torch.equal(mine_of[n], theirs_of[n]) for n in mine_of)
    assert figures["guarantee"]["epsilon"] == 0.0 and "next to nothing" in figures["warning"]


def trained(plugin: type[Plugin], rows: Sequence[Example] | None = None, **options: Any) -> Any:
    made: Any = plugin(**(QUICK | options))
    return save(made.train(start(), rows or rows_of(), RunContext(settings=RunSettings(steps=6)))[0])


def deleted(plugin: type[Plugin], folder: Any, gone: Sequence[Example]) -> tuple[Any, dict[str, Any]]:
    kept = [r for r in rows_of() if r not in gone]
    made: Any = plugin()
    subject, figures = made.build(load_subject(folder), row_task(gone, kept), RunContext())
    return save(subject), figures


@check(trains=True)
def deletes_to_the_base(plugin: type[Plugin]) -> None:
    """A deletion fine-tunes the private base again; the base's epsilon, of an entity too, goes with it."""
    pytest.importorskip("opacus", reason="extra dp is not installed")
    folder = trained(plugin)
    spent = Ledger.read(folder / NAME).plan.own["base"]
    gone = rows_of()[:2]
    found, figures = deleted(plugin, folder, gone)
    base = load_subject(folder)
    alone: Any = base.around(base.model.unwrap())
    kept = [r for r in rows_of() if r not in gone]
    plain = Sisa(shards=1, slices=1, **{k: QUICK[k] for k in ("lr", "batches", "rank")})
    expected = plain.train(alone, kept, RunContext(settings=RunSettings(steps=6)))[0].model.state_dict()
    mine = load_subject(found).model.state_dict()
    assert mine.keys() == expected.keys() and all(torch.equal(mine[n], expected[n]) for n in mine)
    assert files(found) != files(folder) and spent["epsilon"] > 0
    assert figures["guarantee"]["epsilon"] >= figures["guarantee"]["epsilon_of_a_row"] == spent["epsilon"]
    assert spent["largest_entity"]["rows"] > 1 and spent["largest_entity"]["epsilon"] > spent["epsilon"]
    assert "warning" not in spent or spent["loss_fell_by"] < 0.01


@check(trains=True)
def canaries_stay_below_epsilon(plugin: type[Plugin]) -> None:
    """One run, canaries put in by fair coins: the lower bound at 95 % is below the accountant's epsilon; without noise
    the same audit finds the canaries. It reads the weights: how much of each canary's gradient was added."""
    pytest.importorskip("dp_accounting", reason="extra dp is not installed")
    rng, words = stream(0, "canaries"), sorted({word for row in small_task().retain for word in row.answer.split()})
    canaries = [Example(id=f"c/{i}", prompt=f"Code {i}?", answer=" ".join(rng.sample(words, 8))) for i in range(40)]
    inside = [rng.random() < 0.5 for _ in canaries]
    every = [start().encoder.encode(canary) for canary in canaries]
    bounds = {}
    for noise in (1.0, 0.0):
        subject = start()
        scope = Scope(subject, tuple(name for name, _ in subject.model.named_parameters()))
        along = [clipped_one_by_one(subject, scope, [row], 1.0) for row in every]
        before = [p.detach().clone() for p in scope.parameters.values()]
        train_noisily(subject, scope, [row for row, coin in zip(every, inside, strict=True) if coin], steps=1, rate=1.0,
                      clip=1.0, noise=noise, lr=1.0, generator=torch.Generator().manual_seed(1), ghost=False)
        moved = [b - p.detach() for p, b in zip(scope.parameters.values(), before, strict=True)]
        gradients_NP = torch.stack([torch.cat([g.flatten() for g in parts]).double() for parts in along])
        along_N = gradients_NP @ torch.cat([m.flatten() for m in moved]).double()
        scores = torch.linalg.solve(gradients_NP @ gradients_NP.mT, along_N).tolist()  # how much of each was added
        bounds[noise] = one_run_bound(scores, inside, delta=1e-3, share=0.5).epsilon
    assert bounds[1.0] <= epsilon_of(1.0, 1.0, 1, 1e-3)
    assert bounds[0.0] > 1.0 > bounds[1.0], bounds
