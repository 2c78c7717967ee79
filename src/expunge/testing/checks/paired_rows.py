"""Promises of ICU and of the stop that it is published with.

Legend: D hidden size.
"""

from __future__ import annotations

import random

import pytest
import torch
from torch.nn import functional as F

from expunge.methods.base import Objective, Stop
from expunge.methods.stops.still_recites import StillRecites, share_run
from expunge.models.language import CausalLM

from ..support import batch_of, draws_of, gradient, loss, made, memoriser, moved, small_task, stage_of, train, weights
from .base import check, term


@check
def pairs_with_nearest(plugin: type[Objective]) -> None:
    """Each forget row has the retain row of the nearest mean state, in a loop over single rows; never a forget row."""
    task, subject = small_task(), memoriser()

    def state(row: object) -> torch.Tensor:
        batch = batch_of(subject, [row])  # type: ignore[list-item]
        with torch.no_grad():
            return F.normalize(subject.hidden(batch, -1)[0].mean(0), dim=0)

    kept = torch.stack([state(row) for row in task.retain])
    objective, pairs = plugin(), made(term(plugin))
    objective.made = pairs
    assert set(pairs) == {row.id for row in task.forget} and set(pairs.values()) <= {row.id for row in task.retain}
    by_id = {row.id: i for i, row in enumerate(task.retain)}
    for row in task.forget[:6]:
        nearness = kept @ state(row)
        assert float(nearness[by_id[pairs[row.id]]]) > float(nearness.max()) - 1e-5
        sides = objective.sides(row, task, random.Random(0))
        assert sides["forget"] == row and sides["learn"].id == pairs[row.id] and sides["learn"] in task.retain


@check
def weighs_three_terms(plugin: type[Objective]) -> None:
    """Ascent on the rows, the loss of their partners, and the cross-entropy with the original's distribution."""
    draws = draws_of(stage_of(term(plugin)), moved())
    batches = {side: batch_of(moved(), [d[side] for d in draws]) for side in ("forget", "learn")}
    found = gradient(term(plugin), moved(), original=memoriser(), batches=[batches]).values
    with torch.no_grad():
        answers = {side: moved().answers(batch) for side, batch in batches.items()}
        original_NV = memoriser().answers(batches["learn"]).logits_NV.softmax(-1)
    held_N = -(original_NV * answers["learn"].logits_NV.log_softmax(-1)).sum(-1)
    assert found["icu"] == pytest.approx(float(answers["forget"].logp_N.mean()), rel=1e-4)
    assert found["icu_learn"] == pytest.approx(-0.5 * float(answers["learn"].logp_N.mean()), rel=1e-4)
    assert found["icu_divergence"] == pytest.approx(float(held_N.mean()), rel=1e-4)


def started(plugin: type[Stop], subject: CausalLM) -> StillRecites:
    rule = plugin()
    assert isinstance(rule, StillRecites)
    rule.begin(subject, small_task(), small_task().forget)
    return rule


@check
def keeps_what_is_recited(plugin: type[Stop]) -> None:
    """Rows known by heart all count; under another text none does; short rests are compared whole."""
    ids, nothing = [row.id for row in small_task().forget], torch.zeros(len(small_task().forget))
    rule = started(plugin, memoriser())
    rule.before_step(memoriser())
    assert float(rule.weights(ids, nothing).mean()) > 0.9
    ruined = moved(8)
    rule = started(plugin, ruined)
    rule.before_step(ruined)
    assert float(rule.weights(ids, nothing).mean()) < 0.2
    assert rule.recites("was born in Rome", "was born in Rome.") and not rule.recites("in Rome was born", "a b c d e f")
    assert rule.recites("was born in Rome and then goes on and on about other things of all kinds", "was born in Rome")
    assert share_run("x a b c d y", "a b c d e", 4) and not share_run("a b x c d", "a b c d", 4)
    assert share_run("it is Rome", "Rome.", 4) and not rule.recites("anything", "!?")


@check
def looks_once_an_epoch(plugin: type[Stop]) -> None:
    """The model is asked before the first step and when every row was drawn; a lost row may count again."""
    ids = [row.id for row in small_task().forget]
    nothing = torch.zeros(len(ids))
    rule, ruined = started(plugin, memoriser()), moved(8)
    rule.before_step(memoriser())
    first = rule.weights(ids[:5], nothing[:5])
    rule.before_step(ruined)  # not all rows were drawn: it is not asked
    assert torch.equal(rule.weights(ids[:5], nothing[:5]), first) and float(first.mean()) == 1
    again = started(plugin, memoriser())
    again.restore(rule.state())
    for one in (rule, again):
        one.weights(ids, nothing)
        one.before_step(ruined)
        assert float(one.weights(ids, nothing).mean()) < 0.2 and one.figures()["still_forgetting"] < 0.2
    rule.before_step(memoriser())
    assert float(rule.weights(ids, nothing).mean()) > 0.9


@check(trains=True)
def spares_what_is_lost(plugin: type[Stop], recipe: str, steps: int, lr: float) -> None:
    """Forgotten all the same, with a shorter way of the weights and a smaller loss than without the rule."""
    alone, spared = (train(text, steps=steps, lr=lr, batch_size=9)
                     for text in (recipe, f"{recipe} + {term(plugin)}"))
    start = weights(memoriser())
    ways = [sum(float((value - start[name]).square().sum()) for name, value in weights(run.subject).items())
            for run in (alone, spared)]
    losses = [loss(run.subject, small_task().forget) for run in (alone, spared)]
    assert spared.lines[-1]["still_forgetting"] == 0 and ways[1] < 0.7 * ways[0], ways
    assert loss(memoriser(), small_task().forget) + 0.5 < losses[1] < 0.7 * losses[0], losses
