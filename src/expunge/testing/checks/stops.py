"""What plug-ins must show that decide when forgetting is enough."""

from __future__ import annotations

from typing import Any

import torch

from expunge.methods.base import Stop
from expunge.models.language import CausalLM
from expunge.records.task import Example

from ..support import Trained, loss, memoriser, small_task, train
from .base import check, term

RECIPE = "npo + retain_nll"
NEVER, ALWAYS = 1e3, -1e3
"""Nats that no loss reaches, and that every loss exceeds."""


def same_weights(a: CausalLM, b: CausalLM) -> bool:
    one, other = a.model.state_dict(), b.model.state_dict()
    return all(torch.equal(value, other[name]) for name, value in one.items())


def run(plugin: type[Stop], options: dict[str, Any] | None = None, **how: Any) -> Trained:
    return train(f"{RECIPE} + {term(plugin, options)}", **({"steps": 6, "lr": 1e-3, "batch_size": 9} | how))


def by_entity(subject: CausalLM, rows: tuple[Example, ...]) -> list[float]:
    """Loss of each entity's answers."""
    return [loss(subject, [r for r in rows if r.entity == e]) for e in sorted({r.entity for r in rows})]


@check(trains=True)
def keeps_all_until_reached(plugin: type[Stop]) -> None:
    """A level that is never reached changes nothing, bit for bit."""
    plain = train(RECIPE, steps=6, lr=1e-3, batch_size=9)
    assert same_weights(run(plugin, {"margin": NEVER}).subject, plain.subject)


@check(trains=True)
def stops_all_above(plugin: type[Stop]) -> None:
    """Where every row is above the level, the forget rows move next to nothing."""
    task = small_task()
    shares: list[float] = []
    mine = run(plugin, {"margin": ALWAYS}, on_step=lambda line: shares.append(line["still_forgetting"]))
    assert shares and not any(shares)
    moved = loss(mine.subject, task.forget) - loss(memoriser(), task.forget)
    plain = train(RECIPE, steps=6, lr=1e-3, batch_size=9)
    assert moved < 0.1 * (loss(plain.subject, task.forget) - loss(memoriser(), task.forget))


@check(trains=True)
def ends_near_the_level(plugin: type[Stop], steps: int, lr: float) -> None:
    """Every entity ends within half of the level, and nearer to it than without the rule."""
    task = small_task()
    level = loss(memoriser(), task.holdout)
    plain = train(RECIPE, steps=steps, lr=lr, batch_size=9)
    mine = run(plugin, steps=steps, lr=lr)
    far, near = (max(abs(found - level) for found in by_entity(s.subject, task.forget)) for s in (plain, mine))
    assert near < 0.5 * level, (near, level)
    assert near < 0.7 * far, (near, far)


@check(trains=True)
def remembers_when_resumed(plugin: type[Stop]) -> None:
    """What it holds is plain data, and a rule that is given it decides the same."""
    task, one, other = small_task(), plugin(), plugin()
    for rule in (one, other):
        rule.begin(memoriser(), task, task.forget)
    ids = [row.id for row in task.forget]
    half = torch.linspace(0.0, 20.0, len(ids))
    one.weights(ids, half)
    one.figures()
    other.restore(one.state())
    again = half.flip(0)[:4]
    assert torch.equal(one.weights(ids[:4], again), other.weights(ids[:4], again))
