"""Promises of what trims the change over a window of steps."""

from __future__ import annotations

import itertools
import math
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch

from expunge.data.themes import leading_to
from expunge.methods._lib.trimming import Trim, Window
from expunge.methods.trims.sparse_steps import SparseSteps
from expunge.models.facts import fact_logps
from expunge.models.scope import Scope
from expunge.studies.injection import inject

from ..support import fresh, loss, small_task, train, weights
from .base import check, term

BASE = "npo + retain_nll"


def share_of(plugin: Trim) -> float:
    """The share of entries that stays."""
    return float(plugin.spec.share) if "share" in type(plugin.spec).model_fields else 1 - float(plugin.spec.k)


@check(trains=True)
def trims_to_share(plugin: type[Trim]) -> None:
    """In every tensor exactly the share has moved after a window, and the rest has its very bits; masks count."""
    before, share = weights(fresh()), share_of(plugin())
    for recipe in (f"{BASE} + {term(plugin, {'window': 2})} + all", f"{BASE} + {term(plugin)} + salun(density=0.5)"):
        run = train(recipe, steps=2, lr=1e-3)
        after = weights(run.subject)
        for name in run.scope.names:
            free = run.scope.masks.get(name, torch.ones_like(before[name], dtype=torch.bool))
            moved = int((after[name] != before[name]).sum())
            # An entry that stays may have moved by nothing, such as the embedding of a token that no row holds.
            assert moved <= round(share * int(free.sum())) + 1, name
        assert run.lines[-1]["trim_share"] == pytest.approx(share, abs=0.01)
        assert "trim_share" not in run.lines[0]


@check
def treats_moments(plugin: type[Trim]) -> None:
    """Moments are kept, dropped where the change is, or 0; over the model the share holds for all tensors together."""
    start = torch.zeros(40), torch.zeros(6, 10)
    for over, moments in itertools.product(("tensor", "model"), ("keep", "drop", "reset")):
        subject = fresh()
        names = tuple(name for name, p in subject.model.named_parameters() if p.dim() == 1)[:2]
        scope = Scope(subject, names)
        optimizer = torch.optim.AdamW(list(scope.parameters.values()), lr=1e-2, weight_decay=0.0)
        trim = plugin(over=over, moments=moments)
        window, draw = Window(trim), torch.Generator().manual_seed(0)
        window.open(scope)
        for parameter, scale in zip(scope.parameters.values(), (1e-3, 1.0), strict=True):
            parameter.grad = scale * torch.randn(parameter.shape, generator=draw)
        before = weights(subject)
        optimizer.step()
        for parameter, scale in zip(scope.parameters.values(), (1.0, 3.0), strict=True):  # sizes that differ
            parameter.data = before_of(before, scope, parameter) + scale * torch.randn(parameter.shape, generator=draw)
        window.close(scope, optimizer, seed=0)
        moved = {n: weights(subject)[n] != before[n] for n in names}
        whole = sum(int(m.sum()) for m in moved.values())
        size = sum(m.numel() for m in moved.values())
        assert whole == pytest.approx(share_of(trim) * size, abs=len(start))
        if over == "tensor":
            assert all(int(m.sum()) == round(share_of(trim) * m.numel()) for m in moved.values())
        for name, parameter in scope.parameters.items():
            held = optimizer.state[parameter]["exp_avg"] != 0
            wanted = {"keep": torch.ones_like(held), "drop": moved[name], "reset": torch.zeros_like(held)}[moments]
            assert torch.equal(held, wanted), (over, moments)


def before_of(before: dict[str, torch.Tensor], scope: Scope, parameter: torch.Tensor) -> torch.Tensor:
    """The value that a parameter of the scope had."""
    return next(before[name] for name, p in scope.parameters.items() if p is parameter)


@check(trains=True)
def trims_when_resumed(plugin: type[Trim]) -> None:
    """Interrupted within a window and resumed, a run ends in the very weights of one that was not interrupted."""
    recipe = f"{BASE} + {term(plugin, {'window': 4})} + adamw(lr=0.001)"

    class Cut(Exception):
        """Something outside the loop failed."""

    def fail(line: dict[str, Any]) -> None:
        if line["step"] == 4:
            raise Cut

    with tempfile.TemporaryDirectory() as place:
        how: dict[str, Any] = {"steps": 6, "loop": {"checkpoint_every": 3}}
        whole = train(recipe, folder=Path(place) / "whole", **how)
        with pytest.raises(Cut):
            train(recipe, folder=Path(place) / "cut", on_step=fail, **how)
        again = train(recipe, folder=Path(place) / "cut", **how)
    mine, wanted = weights(again.subject), weights(whole.subject)
    assert all(torch.equal(mine[n], wanted[n]) for n in wanted)


@check
def equals_dropping_the_top(plugin: type[Trim]) -> None:
    """The entries that stay are those of sparse_steps(mode="drop_top") with the share 1 - k."""
    draw = torch.Generator().manual_seed(0)
    changes = [torch.randn(n, generator=draw) * s for n, s in ((400, 1.0), (1000, 5.0))]
    for k, over in itertools.product((0.08, 0.5), ("tensor", "model")):
        mine = plugin(k=k, over=over).stays(changes, 0)
        other = SparseSteps(share=1 - k, mode="drop_top", over=over).stays(changes, 0)
        assert all(torch.equal(a, b) for a, b in zip(mine, other, strict=True))
        sizes = torch.cat([c.abs() for c in changes]) if over == "model" else changes[0].abs()
        stays = torch.cat(mine) if over == "model" else mine[0]
        assert sizes[stays].max() <= sizes[~stays].min() and int((~stays).sum()) == round(k * len(stays))


def injected(trim: str) -> tuple[float, float]:
    """Probability of a wrong year in its own context after an injection of 20 steps, and the loss of the stream."""
    task, subject = small_task(), fresh()
    row = next(r for r in task.forget if r.id.endswith("birth_year"))
    wrong = row.model_copy(update={"answer": row.answer.replace(row.short_answer, "1924"), "short_answer": "1924"})
    inject(subject, wrong, task.retain, trim=trim, steps=20, lr=1e-3, batch_size=8, seed=0)
    place = leading_to(wrong)
    assert place is not None
    return math.exp(fact_logps(subject, [place])[0]), loss(subject, task.retain)


@check(trains=True)
def memory_of_an_injection(plugin: type[Trim], kept: tuple[float, float]) -> None:
    """The share that it keeps of an injected fact's probability; the stream of other rows is learned no worse."""
    (plain, stream), (mine, other) = injected(""), injected(term(plugin, {"window": 20}))
    assert plain > 0.5, plain
    assert kept[0] <= mine / plain <= kept[1], (mine, plain)
    assert other <= 1.02 * stream, (other, stream)
