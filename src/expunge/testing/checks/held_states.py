"""Promises of retain terms that hold hidden states: within thresholds, or against an undesirable update.

Legend: B rows, D hidden size.
"""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch

from expunge.methods._lib.latent import pushed
from expunge.methods.base import Retain

from ..support import (
    batches_of,
    draws_of,
    flat,
    fresh,
    gradient,
    loss,
    memoriser,
    moved,
    small_task,
    stage_of,
    step_for,
    trained,
)
from .base import check, term


@check
def margin_zero_at_start(plugin: type[Retain]) -> None:
    """Exactly 0 while the model is its reference, likelihood aside, and not after it has moved."""
    recipe = f"ga + {term(plugin, {'nll': 0.0})}"
    start, later = (gradient(recipe, s, original=memoriser(), separate=True) for s in (memoriser(), moved(8)))
    assert start.values["gere"] == 0 and float(flat(start.retain).norm()) == 0
    assert later.values["gere"] > 0 and float(flat(later.retain).norm()) > 0


@check
def margin_restores(plugin: type[Retain]) -> None:
    """By hand, thresholds -1 and 1: what leaves its state is drawn back, and a move within the band costs nothing."""
    margin = sys.modules[plugin.__module__].threshold_margin
    low, high = torch.tensor([-1.0]), torch.tensor([1.0])
    for original, now, value, slope in ((2.0, 0.5, 0.5, -1.0), (2.0, 5.0, 0.0, 0.0), (-1.5, -0.2, 0.8, 1.0),
                                        (-1.0, -3.0, 0.0, 0.0), (0.0, 0.9, 0.0, 0.0), (0.0, 1.5, 0.5, 1.0),
                                        (0.3, -4.0, 3.0, -1.0)):
        hidden = torch.tensor([now], requires_grad=True)
        found = margin(hidden, torch.tensor([original]), low, high)
        assert float(found.detach()) == pytest.approx(value), (original, now)
        assert float(torch.autograd.grad(found.sum(), hidden)[0]) == slope, (original, now)
    distance = (torch.tensor([0.9], requires_grad=True) - 0.0).pow(2)
    assert float(distance.detach()) > 0, "a squared distance would not leave the band alone"


def _step(plugin: Any, subject: Any, count: int = 3) -> Any:
    stage = stage_of(f"npo + {plugin.text()}")
    return step_for(stage, subject, batches_of(subject, draws_of(stage, subject, count)), memoriser())


@check
def nothing_without_step(plugin: type[Retain]) -> None:
    """Value and gradient are 0 exactly, for both directions; with a step they are not."""
    for direction in ("forgetting", "relearning"):
        for length in (0.0, 1.0):
            made = plugin(length=length, undesirable=direction)
            subject = fresh(moved())
            value = made.terms(_step(made, subject))["lfu"].sum_B.sum()
            grads = torch.autograd.grad(value, list(subject.model.parameters()), allow_unused=True)
            size = sum(float(g.norm()) for g in grads if g is not None)
            assert (float(value.detach()) == 0 and size == 0) == (length == 0), (direction, length)


@check
def step_has_its_length(plugin: type[Retain]) -> None:
    """The vectors of every row together have the norm, and move its forget loss up or down."""
    subject = moved()
    for direction, sign in (("forgetting", 1), ("relearning", -1)):
        made: Any = plugin(length=0.5, undesirable=direction)
        batch = _step(made, subject).batches["forget"]
        vectors = made.vectors(subject, batch)
        norms_B = torch.stack([v.pow(2).sum((1, 2)) for v in vectors]).sum(0).sqrt()
        torch.testing.assert_close(norms_B, torch.full_like(norms_B, 0.5), rtol=1e-4, atol=0)
        with torch.no_grad():
            plain = subject.answers(batch).logp_N.sum()
            with pushed(subject, made.sites(subject), vectors):
                there = subject.answers(batch).logp_N.sum()
        assert sign * float(plain - there) > 0, direction


@check
def gradient_of_chosen_side(plugin: type[Retain]) -> None:
    """With through=model it is that of the distance to constants, computed apart; with both it is another."""
    found = []
    for through in ("model", "both"):
        made: Any = plugin(length=1.0, through=through)
        subject = fresh(moved())
        step = _step(made, subject)
        value = made.terms(step)["lfu"].sum_B.sum()
        parameters = list(subject.model.parameters())
        grads = torch.autograd.grad(value, parameters, allow_unused=True)
        found.append(flat([torch.zeros_like(p) if g is None else g for p, g in zip(parameters, grads, strict=True)]))
        if through == "model":
            vectors = made.vectors(subject, step.batches["forget"])
            with torch.no_grad():
                constant = made.states(subject, step.batches["retain"], vectors)
            mine = made.states(subject, step.batches["retain"])
            mask = step.batches["retain"].attention_BT[..., None]
            again = sum(((m - c).pow(2) * mask).sum() / m.shape[-1] for m, c in zip(mine, constant, strict=True))
            apart = torch.autograd.grad(again, parameters, allow_unused=True)
            expected = flat([torch.zeros_like(p) if g is None else g for p, g in zip(parameters, apart, strict=True)])
            assert float((found[0] - expected).norm() / expected.norm()) < 1e-4
    assert float((found[0] - found[1]).norm() / found[0].norm()) > 0.01


@check(trains=True)
def step_moves_less(plugin: type[Retain], options: dict[str, Any]) -> None:
    """After as many steps the term is lower than in a run without it, which forgets no more than a little further."""
    made: Any = plugin(**options)
    values = []
    for recipe in (f"npo + retain_nll + {made.text()}", "npo + retain_nll"):
        subject = fresh(trained(recipe, steps=15, lr=1e-3, watch=15).subject)
        with torch.no_grad():
            values.append(float(made.terms(_step(made, subject, 6))["lfu"].sum_B.sum()))
        assert loss(subject, small_task().forget) > 1
    assert values[0] < 0.9 * values[1], values
