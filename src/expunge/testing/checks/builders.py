"""Promises of objectives that make rows from rows: alternates, inverted facts, unrelated answers.

Legend: N supervised tokens (flat).
"""

from __future__ import annotations

import atexit
import json
import random
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from expunge.errors import DataError, ExpungeError, MissingError, UsageError
from expunge.methods._lib.inverted import usable
from expunge.methods.base import Objective
from expunge.methods.run_context import RunContext
from expunge.metrics.text.rouge import rouge
from expunge.models.language import CausalLM
from expunge.records.settings import RunSettings
from expunge.records.task import Example, Task

from ..support import (
    KNOWN_REFUSALS,
    fresh,
    hooks,
    loss,
    memoriser,
    same_random_state,
    small_task,
    train,
    trained,
    weights,
)
from .base import check, term
from .dynamics import heard


def few(count: int = 4) -> Task:
    """The first forget rows alone."""
    return small_task().model_copy(update={"forget": small_task().forget[:count]})


def file_of(answers: Mapping[str, Sequence[str]]) -> str:
    """A temporary file of {id, answers}."""
    handle, path = tempfile.mkstemp(suffix=".jsonl")
    with open(handle, "w", encoding="utf-8") as file:
        file.writelines(json.dumps({"id": id, "answers": list(texts)}) + "\n" for id, texts in answers.items())
    atexit.register(Path(path).unlink)
    return path


@cache
def wrong_file() -> str:
    """The world's wrong answers, which are what a model able to make up answers would write."""
    return file_of({r.id: r.wrong_answers for r in small_task().forget})


def said_by(subject: CausalLM, rows: Sequence[Example]) -> list[str]:
    return [text for text, _ in subject.generate([subject.encoder.prompt(r) for r in rows], 32)]


def likelihood_loss(rows: Sequence[Example], texts: Sequence[str]) -> float:
    """Mean token loss of these answers under the original: low for what reads like its own language."""
    return loss(memoriser(), [r.model_copy(update={"answer": t or "."}) for r, t in zip(rows, texts, strict=True)])


def likeness(rows: Sequence[Example], texts: Sequence[str]) -> tuple[float, float]:
    """Mean ROUGE-L recall against the truth, and against the best of the wrong answers."""
    truth = [rouge(r.answer, t) or 0.0 for r, t in zip(rows, texts, strict=True)]
    wrong = [max(rouge(w, t) or 0.0 for w in r.wrong_answers) for r, t in zip(rows, texts, strict=True)]
    return sum(truth) / len(rows), sum(wrong) / len(rows)


# All builders


@check
def leaves_no_mark(plugin: type[Objective]) -> None:
    """Building gives plain data, the same for the same seed; weights, mode and random state stay."""
    subject, before = fresh(), weights(memoriser())
    first = plugin().prepare(subject, few(), RunContext(settings=RunSettings(seed=1)))
    torch.manual_seed(99)  # not where the first call would have left it
    with same_random_state():
        again = plugin().prepare(subject, few(), RunContext(settings=RunSettings(seed=1)))
    assert json.loads(json.dumps(first)) == first == again
    assert all(torch.equal(p, before[n]) for n, p in weights(subject).items())
    assert hooks(subject) == [] and not subject.model.training


@check(trains=True)
def reads_answers(plugin: type[Objective], option: str, options: Mapping[str, Any] | None = None) -> None:
    """Answers of a file are what rows are made of; a file that cannot be used is refused before a weight is loaded."""
    task = few(2)
    given = {task.forget[0].id: ["One thing.", " One thing. ", ""], task.forget[1].id: ["Another.", "A third."],
             "unknown": ["?"]}
    made = plugin(**{option: file_of(given), **(options or {})})
    assert made.problems(task) == []
    made.made = made.prepare(memoriser(), task, RunContext())
    for row, expected in zip(task.forget, ({"One thing."}, {"Another.", "A third."}), strict=True):
        drawn = [made.sides(row, task, random.Random(i)) for i in range(12)]
        for sides in drawn:
            changed = {side: r for side, r in sides.items() if side != "forget"}
            assert all(r.prompt == row.prompt and r.answer in expected for r in changed.values()) and changed
        assert {r.answer for sides in drawn for side, r in sides.items() if side != "forget"} == expected
    for content, error in (({"nobody": ["x"]}, DataError), ({task.forget[0].id: "x"}, None),
                           ({task.forget[0].id: [" ", task.forget[0].answer]}, UsageError)):
        path = file_of(content)
        if error is None:
            Path(path).write_text(json.dumps({"id": task.forget[0].id, "answers": "x"}) + "\n")
        (problem,) = plugin(**{option: path}).problems(  # type: ignore[arg-type]
            task.model_copy(update={"forget": (
                task.forget[0].model_copy(update={"wrong_answers": (), "entity": ""}),)}))
        assert isinstance(problem, error or DataError) and isinstance(problem, ExpungeError)
    assert isinstance(plugin(**{option: "nonesuch.jsonl"}).problems(task)[0], MissingError)  # type: ignore[arg-type]


# Alternates


@check(trains=True)
def with_refusals_is_dpo(plugin: type[Objective]) -> None:
    """With refusals in place of alternates every step is that of dpo, bit for bit."""
    path = file_of({r.id: KNOWN_REFUSALS for r in small_task().forget})
    mine = train(term(plugin, {"alternates": path}), steps=3)
    theirs = train(f"dpo(refusals={heard()!r}) + retain_nll", steps=3)
    assert [line["terms"]["altpo"] for line in mine.lines] == [line["terms"]["dpo"] for line in theirs.lines]
    ends = [weights(run.subject) for run in (mine, theirs)]
    assert all(torch.equal(ends[0][n], ends[1][n]) for n in ends[0])


@check(trains=True)
def stays_on_topic(plugin: type[Objective], unlike: str) -> None:
    """Greedy answers lose the truth but stay near the alternates and likely under the original; `unlike`'s do not.

    A model of this size cannot make up answers when asked, so they come from a file.
    """
    rows = small_task().forget
    runs = [trained(recipe, steps=30, lr=1e-3, watch=10).subject
            for recipe in (term(plugin, {"alternates": wrong_file()}), unlike)]
    mine, theirs = (said_by(subject, rows) for subject in runs)
    truth, alternate = likeness(rows, mine)
    assert truth < 0.6 < alternate, (truth, alternate)
    assert not {r.answer for r in rows} & set(mine)
    assert likeness(rows, theirs)[1] < 0.2
    assert likelihood_loss(rows, mine) < 0.4 * likelihood_loss(rows, theirs)


@check
def writes_alternates(plugin: type[Objective]) -> None:
    """Sampled from the model with the run's seed, at most as many as asked for, no copies of the truth."""
    task = few()
    options: dict[str, Any] = {"max_new_tokens": 24, "samples": 3}
    runs = (RunContext(settings=RunSettings(seed=seed)) for seed in (0, 0, 1))
    first, again, other = (plugin(**options).prepare(memoriser(), task, run)["alternates"] for run in runs)
    assert first == again != other
    assert first.keys() == {r.id for r in task.forget}
    for row in task.forget:
        assert 1 <= len(set(first[row.id])) == len(first[row.id]) <= 3
        assert all(text.strip() == text and (rouge(row.answer, text) or 0) <= 0.9 for text in first[row.id])
    truth = "Ada was born in the town of Arle."
    assert usable([truth, f"Yes: {truth}", "", " She came from Bex. ", "She came from Bex.", "From Cole. Q: Where?",
                   "Question: Where?"], truth) == ["She came from Bex.", "From Cole."]


@check(trains=True)
def says_when_nothing_survives(plugin: type[Objective]) -> None:
    """A model that only repeats the truth, or a request without room, ends in advice."""
    for options, count in (({"prompt": "{question}", "temperature": 0.1}, 4), ({"prompt": "{question} " * 40}, 4)):
        with pytest.raises(UsageError, match=f"no alternate for {count} of 4") as refused:
            plugin(**options).prepare(memoriser(), few(), RunContext())
        assert "alternates=FILE" in refused.value.fix and "prompt=" in refused.value.fix
    task = few()
    part = file_of({r.id: ["Something else."] for r in task.forget[:3]})
    with pytest.raises(UsageError, match=f"no alternate for 1 of 4 forget rows, such as {task.forget[3].id}"):
        plugin(alternates=part).prepare(memoriser(), task, RunContext())
