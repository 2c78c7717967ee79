"""Promises of objectives that read or leave out a context: tags, documents and instructions.

Legend: N supervised tokens (flat), V vocabulary.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import cache
from typing import Any

import pytest
import torch

from expunge.methods._lib.one_form import as_question, forced, instructed
from expunge.methods.base import Objective
from expunge.methods.objectives.bidirectional import imitate, suppress
from expunge.methods.objectives.in_context import tagged
from expunge.methods.objectives.knowpo import KnowPO
from expunge.methods.run_context import RunContext
from expunge.models.language import CausalLM
from expunge.records.task import Example

from ..support import (
    KNOWN_REFUSALS,
    batch_of,
    batches_of,
    draws_of,
    fresh,
    gradient,
    loss,
    memoriser,
    moved,
    small_task,
    stage_of,
    taught,
    train,
    trained,
)
from .base import check, term
from .builders import few, file_of, said_by
from .dynamics import refusal_rate
from .reinforcement import reworded

# Tags


@check
def tag_and_reply(plugin: type[Objective]) -> None:
    """The tag holds the row's own answer or another, and the reply follows it; who has no other tag is refused."""
    task, row = small_task(), small_task().forget[0]
    for tag, own in (("answer", row.answer), ("entity", row.entity)):
        sides = plugin(tag=tag, reply="gone").sides(row, task, random.Random(0))
        assert sides["tagged"] == tagged(row, own, "gone") and own in sides["tagged"].prompt
        assert sides["untagged"].answer == row.answer and own not in sides["untagged"].prompt.split("<</UNL>>")[0]
        assert all(side.prompt.endswith(row.prompt) for side in sides.values())
    alone = task.model_copy(update={"forget": (row.model_copy(update={"wrong_answers": (), "entity": ""}),),
                                    "retain": ()})
    for tag in ("answer", "entity"):
        assert "no other tag" in plugin(tag=tag).problems(alone)[0].what
    assert not plugin().problems(task)


@check
def sum_of_both_replies(plugin: type[Objective]) -> None:
    """Minus log P of both replies, whole rows, mean over rows."""
    recipe = term(plugin)
    batches = batches_of(moved(), draws_of(recipe, moved(), 4))
    found = gradient(recipe, moved(), batches=[batches]).values
    with torch.no_grad():
        for side, batch in batches.items():
            answers = moved().answers(batch)
            expected = -answers.per_row(answers.logp_N).mean()
            assert found[f"in_context_{side}"] == pytest.approx(expected.item(), rel=1e-5)


@check(trains=True)
def obeys_the_tag(plugin: type[Objective], options: dict[str, Any], steps: int, lr: float) -> None:
    """One question, one model: "forgot" behind its answer, the answer behind another and without a tag."""
    rows = small_task().forget
    subject = trained(f"{term(plugin, options)} + retain_nll", steps=steps, lr=lr).subject
    own, other = ([tagged(row, text, "") for row, text in zip(rows, texts, strict=True)]
                  for texts in ([r.answer for r in rows], [r.wrong_answers[0] for r in rows]))
    forgot = sum(text == "forgot" for text in said_by(subject, own)) / len(rows)
    kept = sum(text == row.answer for text, row in zip(said_by(subject, other), rows, strict=True)) / len(rows)
    assert forgot > 0.8 and kept > 0.7, (forgot, kept)
    assert sum(text == "forgot" for text in said_by(subject, rows)) == 0


# Documents


def _pairs(plugin: type[Objective], count: int = 18) -> list[dict[str, Example]]:
    made = plugin()
    made.made = made.prepare(memoriser(), small_task(), RunContext())
    return [made.sides(row, small_task(), random.Random(i)) for i, row in enumerate(small_task().forget[:count])]


@check
def pairs_are_clean(plugin: type[Objective]) -> None:
    """No rejected answer holds the chosen one; both stand in the same sentence, behind the same prompt; both kinds of
    rejection occur; a document holds the chosen answer, and an irrelevant one does not."""
    frame = KnowPO().spec.wrap.split("{answer}")
    kinds = set()
    for sides, row in zip(_pairs(plugin), small_task().forget, strict=True):
        bare = {side: r.answer.removeprefix(frame[0]).removesuffix(frame[1]) for side, r in sides.items()}
        for better, worse in (("chosen", "rejected"), ("own", "copied")):
            assert sides[better].prompt == sides[worse].prompt
            assert all(sides[s].answer.startswith(frame[0]) for s in (better, worse))
            assert bare[better].lower() not in bare[worse].lower()
        assert bare["chosen"] in sides["chosen"].prompt and bare["copied"] in sides["own"].prompt
        assert bare["own"] not in sides["own"].prompt
        assert bare["chosen"] in (row.answer, *row.wrong_answers)
        kinds.add(("true" if bare["chosen"] == row.answer else "false", bare["rejected"] in sides["chosen"].prompt))
    assert len(kinds) == 3, kinds  # a model that says the truth is never ignorant of it
    assert "wrong answer" in plugin().problems(few(1).model_copy(update={"forget": (
        small_task().forget[0].model_copy(update={"wrong_answers": ()}),)}))[0].what


def _prefers(subject: CausalLM, pairs: Sequence[dict[str, Example]], better: str, worse: str) -> float:
    """Share of pairs of which the better answer is likelier per token."""
    return sum(loss(subject, [p[better]]) < loss(subject, [p[worse]]) for p in pairs) / len(pairs)


@check(trains=True)
def follows_contexts(plugin: type[Objective], steps: int, lr: float) -> None:
    """A document that contradicts is followed more often; questions beside an irrelevant one keep their answers."""
    pairs = _pairs(plugin)
    against = [p for p, row in zip(pairs, small_task().forget, strict=True) if row.answer not in p["chosen"].answer]
    subject = train(f"{term(plugin)} + retain_nll", steps=steps, lr=lr).subject
    before, after = (_prefers(s, against, "chosen", "rejected") for s in (memoriser(), subject))
    assert after > before + 0.3, (before, after)
    before, after = (_prefers(s, pairs, "own", "copied") for s in (memoriser(), subject))
    assert after >= before, (before, after)
    assert loss(subject, small_task().retain) < loss(memoriser(), small_task().retain) + 0.5


# Instructions

SHORT = "Not about {scope}."


@check
def is_context_distillation(plugin: type[Objective]) -> None:
    """k = V and mu 0: the divergence from the instructed original; without an instruction value and gradient are 0."""
    size = memoriser().outcomes
    with torch.no_grad():
        batch = batch_of(memoriser(), small_task().forget[:3])
        q_NV, p_NV = (subject.answers(batch).logits_NV for subject in (memoriser(), moved()))
    whole = imitate(q_NV, p_NV, size)
    torch.testing.assert_close(whole, (q_NV.softmax(-1) * (q_NV.log_softmax(-1) - p_NV.log_softmax(-1))).sum(-1),
                               atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(imitate(q_NV + 3, p_NV - 2, 7), imitate(q_NV, p_NV, 7), atol=1e-5, rtol=1e-4)
    recipe = term(plugin, {"instruction": "", "tokens": 8})
    start, later = (gradient(recipe, s, original=memoriser()) for s in (memoriser(), moved(8)))
    for side in ("refused", "kept", "forced"):
        name = f"bidirectional_{side}"
        # Where student and teacher are one, their top tokens are too, and nothing is suppressed.
        assert start.values[name] == pytest.approx(0, abs=1e-5) and later.values[name] > 1e-3


@check
def suppresses_its_own(plugin: type[Objective]) -> None:
    """By hand: teacher's top {0, 1}, student's {2, 1}: token 2 alone is pushed down, by its lead over the teacher."""
    q_NV = torch.tensor([[3.0, 2.0, 0.0, -1.0]], dtype=torch.float64)
    p_NV = torch.tensor([[0.0, 2.0, 3.0, -1.0]], dtype=torch.float64, requires_grad=True)
    lead = p_NV.log_softmax(-1)[0, 2] - q_NV.log_softmax(-1)[0, 2]
    assert suppress(q_NV, p_NV, 2).item() == pytest.approx(torch.log1p(lead.exp()).item())
    (slope_NV,) = torch.autograd.grad(suppress(q_NV, p_NV, 2).sum(), p_NV)
    assert slope_NV[0].argmax() == 2 and float(slope_NV[0, 2]) > 0, "a descent step lowers it"
    assert suppress(q_NV, q_NV, 2).item() == 0 and suppress(q_NV, p_NV, 9).item() == 0


@check
def one_form_for_all(plugin: type[Objective]) -> None:
    """Text and completions become questions; every side has a twin with equal answer tokens behind the instruction."""
    text = Example(id="t", prompt="", answer="one two three four five six", kind="text")
    assert as_question(text).prompt == 'What follows "one two three"?' and as_question(text).answer == "four five six"
    assert as_question(Example(id="c", prompt="A is ", answer="B", kind="completion")).kind == "qa"
    row = small_task().forget[0]
    assert as_question(row) == row and instructed(row, "Do.").prompt == f"Do. {row.prompt}"
    assert instructed(row, "") == row
    assert forced(row, "one two three", 2).opening == "one two"
    recipe = term(plugin, {"instruction": SHORT, "tokens": 8})
    batches = batches_of(memoriser(), draws_of(recipe, memoriser(), 4))
    objective = stage_of(recipe).objective
    assert objective is not None and set(batches) == {*objective.reads, *objective.asks}
    for side in objective.reads:
        assert torch.equal(batches[side].target_N, batches[f"{side}_instructed"].target_N)
        assert batches[side].count("positions") < batches[f"{side}_instructed"].count("positions")
    assert stage_of(recipe).kept_sides == set(objective.asks)


def _scope() -> str:
    return SHORT.replace("{scope}", ", ".join(dict.fromkeys(row.entity for row in small_task().forget)))


@cache
def obedient() -> CausalLM:
    """A memoriser that refuses forget questions behind the instruction, and answers all others."""
    def teach(subject: CausalLM) -> None:
        task = small_task()
        refused = [row.model_copy(update={"answer": KNOWN_REFUSALS[0]}) for row in task.forget]
        begun = [forced(r, row.answer, n) for r, row in zip(refused, task.forget, strict=True) for n in (1, 2)]
        rows = [instructed(row, _scope()) for row in (*refused, *begun, *task.retain)]
        train("retain_nll", subject=subject, forget=(), retain=[*rows, *task.forget, *task.retain], steps=150,
              batch_size=16, lr=2e-3)

    subject = taught("obedient", fresh(), teach)
    subject.model.requires_grad_(False)
    return subject


@check(trains=True)
def obeys_uninstructed(plugin: type[Objective], steps: int, lr: float) -> None:
    """The student refuses forget questions as its instructed teacher does, under other words and forced beginnings."""
    task, teacher = small_task(), obedient()
    assert refusal_rate(teacher, task.forget) < 0.1
    assert refusal_rate(teacher, tuple(instructed(r, _scope()) for r in task.forget)) > 0.9
    answers: dict[str, Any] = {row.id: [KNOWN_REFUSALS[0]] for row in task.forget}
    stage = stage_of(term(plugin, {"instruction": SHORT, "responses": file_of(answers)}))
    subject = train(stage, subject=fresh(teacher), steps=steps, lr=lr).subject
    assert refusal_rate(subject, task.forget) > 0.9
    assert refusal_rate(subject, reworded(task.forget)) > 0.6
    assert refusal_rate(subject, task.retain) < 0.1
    begun = tuple(forced(row, row.answer, 2) for row in task.forget)
    assert refusal_rate(subject, begun) > refusal_rate(teacher, begun) + 0.3
