"""Promises of damaged weights and of the student that is taught anew.

Legend: N supervised tokens (flat), V vocabulary.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from functools import cache
from typing import Any

import pytest
import torch

from expunge.methods.base import Edit, Objective
from expunge.methods.finetune import finetune
from expunge.methods.run_context import RunContext
from expunge.methods.stage import StageMethod
from expunge.models.answers import Answers
from expunge.models.language import CausalLM
from expunge.records.settings import RunSettings
from expunge.records.task import Example, Task

from ..support import (
    batch_of,
    both_losses,
    flat,
    fresh,
    gradient,
    loss,
    memoriser,
    moved,
    same_random_state,
    small_task,
    stage_of,
    train,
    trained,
    weights,
)
from .base import check, term
from .edits import edited

# Damage


@check
def moves_towards_noise(plugin: type[Edit]) -> None:
    """(1 - alpha) w + alpha beta N with N in Xavier's bounds and of their spread; vectors keep their bits."""
    before, alpha, beta = weights(memoriser()), 0.4, 0.5
    subject, figures = edited(term(plugin, {"alpha": alpha, "beta": beta}))
    shrunk, _ = edited(term(plugin, {"alpha": alpha, "beta": 0.0}))
    after, only = weights(subject), weights(shrunk)
    noises = []
    for name, weight in before.items():
        if weight.dim() < 2:
            assert torch.equal(after[name], weight) and torch.equal(only[name], weight), name
            continue
        torch.testing.assert_close(only[name], (1 - alpha) * weight, atol=1e-7, rtol=1e-6)
        noise = (after[name] - (1 - alpha) * weight) / (alpha * beta)
        bound = (6 / sum(weight.shape)) ** 0.5
        assert float(noise.abs().max()) <= bound * 1.001, name
        assert float(noise.std()) == pytest.approx(bound / 3 ** 0.5, rel=0.05), name
        noises.append(noise.flatten()[:1000])
    together = torch.corrcoef(torch.stack(noises))
    assert float((together - torch.eye(len(noises))).abs().max()) < 0.2, "matrices share their noise"
    assert figures["matrices"] == len(noises)
    tied = subject.model.get_input_embeddings().weight
    assert tied.data_ptr() == subject.model.get_output_embeddings().weight.data_ptr()


@check
def forgets_where_it_came_from(plugin: type[Edit]) -> None:
    """At alpha 1 two models end with the same matrices, and another seed gives others."""
    ends = []
    for start, seed in ((memoriser(), 0), (moved(), 0), (memoriser(), 1)):
        subject = fresh(start)
        plugin(alpha=1.0, beta=1.0).apply(subject, small_task(), seed)
        ends.append({n: w for n, w in weights(subject).items() if w.dim() > 1})
    assert all(torch.equal(ends[0][n], ends[1][n]) for n in ends[0])
    assert all(not torch.equal(ends[0][n], ends[2][n]) for n in ends[0])
    draw = sys.modules[plugin.__module__].xavier_uniform
    for shape, fans in (((9, 20, 30), 50), ((20, 30, 3, 3), 450)):  # experts, and the kernel of a convolution
        found = draw(torch.Size(shape), torch.Generator().manual_seed(0))
        assert float(found.abs().max()) == pytest.approx((6 / fans) ** 0.5, rel=0.01)


# Students


@check
def teaches_nothing_to_itself(plugin: type[Objective]) -> None:
    """Value and gradient vanish while the student is the teacher, and not after it has moved."""
    for options in ({}, {"kl": "reverse"}, {"temperature": 2.0}):
        recipe = term(plugin, options)
        start, later = (gradient(recipe, s, original=memoriser()) for s in (memoriser(), moved(8)))
        assert start.values["distil"] == pytest.approx(0, abs=1e-6) and later.values["distil"] > 1e-3
        assert flat(start.total()).norm() < 1e-5 * flat(later.total()).norm()


def _both() -> tuple[Answers, Answers]:
    """Answers of a teacher and of a student in float64, so that differences are not rounding."""
    batch = batch_of(memoriser(), small_task().retain[:3])
    with torch.no_grad():
        teacher, student = (Answers(batch, m.answers(batch).logits_NV.double()) for m in (memoriser(), moved(8)))
    return teacher, student


@check
def divergence_of_both(plugin: type[Objective]) -> None:
    """Beside sums over the vocabulary, with either model first; the teacher gets no gradient."""
    teacher, student = _both()
    for temperature in (1.0, 3.0):
        q, p = ((a.logits_NV / temperature).softmax(-1) for a in (teacher, student))
        for direction, (one, two) in (("forward", (q, p)), ("reverse", (p, q))):
            made: Any = plugin(kl=direction, temperature=temperature)
            found_N = made.divergence(teacher, student)
            expected_N = temperature ** 2 * (one * (one.log() - two.log())).sum(-1)
            torch.testing.assert_close(found_N, expected_N)
            assert float(found_N.min()) > -1e-9


@check
def teaches_only_the_likeliest(plugin: type[Objective]) -> None:
    """The divergence from the teacher's K likeliest, scaled to 1; with K = 1 the loss of its first choice."""
    teacher, student = _both()
    log_p_NV = student.logits_NV.log_softmax(-1)
    for count in (1, 5):
        made: Any = plugin(likeliest=count)
        top = teacher.logits_NV.softmax(-1).topk(count, dim=-1)
        q_NK = top.values / top.values.sum(-1, keepdim=True)
        expected_N = (q_NK * (q_NK.log() - log_p_NV.gather(1, top.indices))).sum(-1)
        torch.testing.assert_close(made.divergence(teacher, student), expected_N)


def _order(plugin: type[Objective], options: dict[str, Any], task: Task) -> list[Any]:
    method = StageMethod(stage_of(term(plugin, options)), memoriser(), task, task.forget, task.retain, 0)
    return [draw["distil"] for draw in method.order(0)]


@check
def reads_no_forget_row(plugin: type[Objective]) -> None:
    """By default every retain and background row once an epoch; where there is none, it is refused."""
    task = small_task()
    rows = _order(plugin, {}, task)
    assert sorted(r.id for r in rows) == sorted(r.id for r in (*task.retain, *task.background))
    assert not {r.entity for r in rows} & {r.entity for r in task.forget}
    assert {r.id for r in _order(plugin, {"data": ["background"]}, task)} == {r.id for r in task.background}
    bare = task.model_copy(update={"retain": (), "background": ()})
    assert not plugin().problems(task) and not plugin(data=["generic"]).problems(bare)
    assert "no retain and no background rows" in str(plugin().problems(bare)[0])


@check
def writes_its_rows(plugin: type[Objective]) -> None:
    """Plain data, the same for the same seed, with no name of a forgotten person in the generic text."""
    task = small_task().model_copy(update={"forget": small_task().forget[:3]})
    made: Any = plugin(data=["generic", "self"], texts=6, samples=2, tokens=24)
    first, again, other = (made.prepare(memoriser(), task, RunContext(settings=RunSettings(seed=s))) for s in (1, 1, 2))
    with same_random_state():
        made.rows(task)
    assert json.loads(json.dumps(first)) == first == again != other
    planned = len(made.rows(task))
    made.made = first
    rows = made.rows(task)
    generic, own = ([r for r in rows if r.kind == kind] for kind in ("text", "qa"))
    assert 1 <= len(generic) <= 6 and 1 <= len(own) <= 6 and len(rows) <= planned == 12
    names = {row.entity.lower() for row in task.forget}
    assert all(row.answer.strip() and not any(name in row.answer.lower() for name in names) for row in generic)
    assert {row.prompt for row in own} <= {row.prompt for row in task.forget}


@cache
def _unlearned() -> CausalLM:
    return trained("npo + retain_kl", steps=30, lr=1e-3, watch=10).subject


@cache
def _taught(recipe: str, damage: str, steps: int) -> tuple[CausalLM, CausalLM]:
    """The unlearned model after `damage`, and what it teaches to those weights."""
    damaged = fresh(_unlearned())
    stage_of(damage).edit.apply(damaged, small_task(), 0)  # type: ignore[union-attr]
    stage = stage_of(recipe).with_learning_rate(3e-3)
    student = train(stage, subject=fresh(damaged), steps=steps, batch_size=16, teacher=fresh(_unlearned())).subject
    return damaged, student


@check(trains=True)
def refills_damaged_weights(plugin: type[Objective], damage: str, steps: int) -> None:
    """Retain answers come back near the teacher's; forget answers end where answers never seen are."""
    damaged, taught = _taught(term(plugin), damage, steps)
    task, (_, retain_0), (forget_1, retain_1) = small_task(), both_losses(_unlearned()), both_losses(taught)
    assert loss(damaged, task.retain) > retain_0 + 2, "nothing was damaged"
    assert retain_1 < retain_0 + 0.5, (retain_0, retain_1)
    assert forget_1 > 0.6 * loss(taught, task.holdout), (forget_1, loss(taught, task.holdout))


def lead(subject: CausalLM, rows: Sequence[Example]) -> float:
    """Nats per token by which right answers are likelier than wrong ones: forms of answers cancel out."""
    wrong = [row.model_copy(update={"answer": text}) for row in rows for text in row.wrong_answers[:2]]
    return loss(subject, wrong) - loss(subject, rows)


@check(trains=True)
def relearns_slower(plugin: type[Objective], damage: str, steps: int, again: int) -> None:
    """Fine-tuned on the rows of one person, the student knows less of the other than its teacher does."""
    rows, (_, taught) = small_task().forget, _taught(term(plugin), damage, steps)
    people = sorted({row.entity for row in rows})
    known = {}
    for name, start in (("teacher", _unlearned()), ("student", taught)):
        for person in people:
            subject = fresh(start)
            finetune(subject, [r for r in rows if r.entity == person], steps=again, lr=1e-3)
            known[name, person] = lead(subject, [r for r in rows if r.entity != person])
    gained = {name: sum(known[name, person] for person in people) / len(people) for name in ("teacher", "student")}
    assert gained["student"] < gained["teacher"] - 0.5, known
