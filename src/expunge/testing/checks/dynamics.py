"""Promises about what training does: how far answers are forgotten, how fast, and at whose cost."""

from __future__ import annotations

import atexit
import math
import sys
import tempfile
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from expunge.methods.base import Objective
from expunge.methods.objectives.rmu import control_vector
from expunge.metrics.text.refusals import is_refusal
from expunge.models.language import CausalLM
from expunge.plugin import Plugin
from expunge.records.task import Example

from ..support import KNOWN_REFUSALS, Trained, batch_of, loss, memoriser, small_task, stage_of, train, trained
from .base import check, term
from .objectives import SequenceAscent

ALONE = " + retain_nll(weight=0)"


@cache
def _sequence_ascent(steps: int, lr: float, watch: int) -> Trained:
    stage = replace(stage_of("ga"), objective=SequenceAscent())
    return train(stage, steps=steps, lr=lr, watch=watch, batch_size=9)


def run_of(name: str, *, steps: int, lr: float, watch: int) -> Trained:
    """A shared run of a recipe, or of the ascent that only the tests know."""
    if name == SequenceAscent.card.name:
        return _sequence_ascent(steps, lr, watch)
    return trained(name, steps=steps, lr=lr, watch=watch)


def refusal_rate(subject: CausalLM, rows: tuple[Example, ...]) -> float:
    """Share of greedy answers that decline."""
    said = subject.generate([subject.encoder.prompt(r) for r in rows], 32)
    return sum(is_refusal(text) for text, _ in said) / len(rows)


def retain_at(run: Trained, level: float) -> float:
    """Retain loss at the moment the forget loss first passes `level`, between readings linearly."""
    for (f0, r0), (f1, r1) in zip(run.readings, run.readings[1:], strict=False):
        if f0 <= level < f1:
            return r0 + (r1 - r0) * (level - f0) / (f1 - f0)
    raise AssertionError(f"the forget loss never passed {level}: {run.readings}")


def activations(subject: CausalLM, rows: tuple[Example, ...], block: int) -> Tensor:
    """Hidden states of all real positions, one below the other."""
    batch = batch_of(subject, rows)
    with torch.no_grad():
        return subject.hidden(batch, block)[batch.attention_BT.bool()]


@check(trains=True)
def forgets(plugin: type[Plugin], options: dict[str, Any] | None = None, lr: float = 1e-3, steps: int = 30,
            retain_rise: float | None = None) -> None:
    """Forget loss more than doubles and rises by half a nat per token; retain loss by `retain_rise` at most."""
    run = trained(term(plugin, options), steps=steps, lr=lr, watch=10)
    (forget_0, retain_0), (forget_1, retain_1) = run.readings[0], run.readings[-1]
    assert forget_1 > 2 * forget_0 and forget_1 > forget_0 + 0.5, run.readings
    if retain_rise is not None:
        assert retain_1 - retain_0 < retain_rise, run.readings


@check(trains=True)
def grows_without_bound(plugin: type[Objective], options: dict[str, Any] | None = None, lr: float = 3e-4) -> None:
    """Forget loss passes that of a uniform guess and does not slow down: the slope is at least linear."""
    assert plugin.card.unbounded
    forget = [f for f, _ in trained(term(plugin, options), steps=60, lr=lr, watch=6).readings]
    assert forget[-1] > math.log(memoriser().model.config.vocab_size) + 1
    assert forget[6] - forget[3] > forget[3] - forget[0], forget  # before the logits of so small a model saturate


@check(trains=True)
def slower_than(plugin: type[Objective], other: str) -> None:
    """With the same optimizer the forget loss ends below `other`'s, and falls ever further behind."""
    mine, theirs = (run_of(n, steps=60, lr=3e-4, watch=6) for n in (term(plugin), other))
    gaps = [t[0] - m[0] for m, t in zip(mine.readings, theirs.readings, strict=True)]
    assert mine.readings[-1][0] < 0.8 * theirs.readings[-1][0]
    assert gaps[-1] > gaps[len(gaps) // 2] > 0
    rises = np.diff([f for f, _ in mine.readings])
    assert rises[-1] < 0.5 * rises.max(), "the push did not fade"


@check(trains=True)
def collapses_retain(plugin: type[Objective], survivor: str) -> None:
    """Alone it ruins the retain rows at a rate that `survivor` survives."""
    mine, theirs = (trained(n, steps=60, lr=3e-4, watch=6) for n in (term(plugin), survivor))
    assert mine.readings[-1][1] > 4 * theirs.readings[-1][1]
    assert mine.readings[-1][1] > math.log(memoriser().model.config.vocab_size)


@check(trains=True)
def kinder_than(plugin: type[Plugin], other: str) -> None:
    """At equal forget loss the retain loss is lower than `other`'s."""
    mine, theirs = (trained(n, steps=60, lr=3e-4, watch=6) for n in (term(plugin), other))
    for level in (2.0, 4.0, 6.0):
        assert retain_at(mine, level) < retain_at(theirs, level)


@check(trains=True)
def over_forgets(plugin: type[Plugin]) -> None:
    """Forget answers end below answers never trained on, so that an attacker tells the two apart again."""
    subject = trained(term(plugin), steps=80, lr=3e-4).subject
    task = small_task()
    forget, never = ([loss(subject, [r]) for r in rows] for rows in (task.forget, task.holdout))
    auc = np.mean([f > n for f in forget for n in never])
    assert auc > 0.9, f"only {auc:.2f} of pairs have the forget answer less likely"


@check(trains=True)
def plateaus(plugin: type[Objective], options: dict[str, Any], unlike: str) -> None:
    """The loss reaches its optimum and the forget loss stays where that is, while `unlike` diverges."""
    run = trained(term(plugin, options), steps=120, lr=1e-3, watch=20)
    forget = [f for f, _ in run.readings]
    assert abs(forget[-1] - forget[3]) < 0.1 * forget[3], forget
    assert trained(unlike, steps=60, lr=1e-3, watch=60).readings[-1][0] > 10 * forget[-1]
    # The optimum of a cross-entropy is the entropy of its target.
    lowered = sys.modules[plugin.__module__].lowered
    answers = memoriser().answers(batch_of(memoriser(), small_task().forget))
    target_NV = lowered(answers.logits_NV, answers.batch.target_N, plugin(**options).spec.strength)
    entropy = float(torch.special.entr(target_NV).sum(-1).mean())
    first, last = run.lines[0]["loss"], float(np.mean([line["loss"] for line in run.lines[-6:]]))
    assert entropy < last < entropy + 0.2 * (first - entropy), (first, last, entropy)


@cache
def heard() -> str:
    """A file of the refusals that the model knows how to say. It has not the size for a hundred new ones."""
    handle, path = tempfile.mkstemp(suffix=".txt")
    with open(handle, "w", encoding="utf-8") as file:
        file.write("\n".join(KNOWN_REFUSALS))
    atexit.register(Path(path).unlink)
    return path


@check(trains=True)
def refuses(plugin: type[Objective], options: dict[str, Any] | None = None, lr: float = 2e-3,
            familiar: bool = False) -> None:
    """More than nine in ten forget questions are declined, and retain questions are still answered.

    `familiar` draws refusals from sentences the model has heard, rather than from the package's list.
    """
    options = (options or {}) | ({"refusals": heard()} if familiar else {})
    subject = trained(f"{term(plugin, options)} + retain_nll", steps=60, lr=lr).subject
    assert refusal_rate(subject, small_task().forget) > 0.9
    assert refusal_rate(subject, small_task().retain) < 0.1


@check(trains=True)
def over_refuses_alone(plugin: type[Objective], options: dict[str, Any] | None = None, lr: float = 1e-3,
                       familiar: bool = False) -> None:
    """Without a retain term retain questions are declined too, which the original never did."""
    options = (options or {}) | ({"refusals": heard()} if familiar else {})
    subject = trained(term(plugin, options) + ALONE, steps=30, lr=lr).subject
    assert refusal_rate(memoriser(), small_task().retain) == 0
    assert refusal_rate(subject, small_task().retain) > 0.3


@check(trains=True)
def short_not_slower(plugin: type[Objective]) -> None:
    """Short memorised answers lose at least about as much per token as long ones, at every stage."""
    rows = sorted(small_task().forget, key=lambda r: memoriser().encoder.encode(r).answer)
    short, long = rows[:6], rows[-6:]
    for steps in (8, 16, 30):
        subject = trained(term(plugin, {"weight": 1.0}), steps=steps, lr=1e-3).subject
        rise = [loss(subject, side) - loss(memoriser(), side) for side in (short, long)]
        assert rise[0] > 0.75 * rise[1], f"after {steps} steps short answers lost {rise[0]:.2f}, long {rise[1]:.2f}"


@check(trains=True)
def steers(plugin: type[Objective]) -> None:
    """With little retain weight, forget activations take the control vector's direction and length."""
    rows, depth = small_task().forget, len(memoriser().blocks)
    block = plugin().block(depth)  # type: ignore[attr-defined]
    length = round(3 * float(activations(memoriser(), rows, block).norm(dim=-1).mean()), 1)
    subject = trained(term(plugin, {"coefficient": length, "alpha": 0.01}), steps=60, lr=1e-2).subject
    found = activations(subject, rows, block)
    target = control_vector(found.shape[-1], length, 0)
    assert float(torch.cosine_similarity(found, target[None]).mean()) > 0.9
    assert abs(float(found.norm(dim=-1).mean()) / length - 1) < 0.2
    assert float(torch.cosine_similarity(activations(memoriser(), rows, block), target[None]).mean()) < 0.5


@check(trains=True)
def suppresses(plugin: type[Objective], options: dict[str, Any]) -> None:
    """A control vector of length zero shrinks forget activations."""
    block = plugin().block(len(memoriser().blocks))  # type: ignore[attr-defined]
    subject = trained(term(plugin, options), steps=40, lr=5e-3).subject
    sizes = [float(activations(s, small_task().forget, block).norm(dim=-1).mean()) for s in (memoriser(), subject)]
    assert sizes[1] < 0.3 * sizes[0]


@check(trains=True)
def holds_retain(plugin: type[Objective], options: dict[str, Any], drift: float) -> None:
    """With its published alpha, retain activations drift by less than this share of their length."""
    block = plugin().block(len(memoriser().blocks))  # type: ignore[attr-defined]
    subject = trained(term(plugin, options), steps=40, lr=2e-3).subject
    before, after = (activations(s, small_task().retain, block) for s in (memoriser(), subject))
    assert float(((after - before).norm(dim=-1) / before.norm(dim=-1)).mean()) < drift
    assert float(torch.cosine_similarity(after, before).mean()) > 0.99
    assert not torch.equal(after, before)
