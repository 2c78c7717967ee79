"""Promises of training on inverted facts, and of MEMO, which chooses among them.

Legend: N supervised tokens (flat).
"""

from __future__ import annotations

import json
import random
from collections import Counter
from functools import cache
from typing import Any

import pytest

from expunge.errors import UsageError
from expunge.methods._lib.memo import cut, memo, positions
from expunge.methods.base import Objective
from expunge.methods.objectives.meow import choose
from expunge.methods.optimizers.adamw import AdamW
from expunge.methods.run_context import RunContext
from expunge.models.language import CausalLM
from expunge.models.tiny import build_subject
from expunge.records.settings import RunSettings
from expunge.records.task import Example

from ..support import (
    CONFIG,
    memoriser,
    small_task,
    train,
    trained,
)
from .base import check, term
from .builders import few, likelihood_loss, likeness, said_by


@cache
def learnt() -> tuple[CausalLM, list[float]]:
    """A model of bytes that has learnt four rows by heart, and their mean MEMO before, during and after.

    Cuts between characters fall inside the tokens of a larger vocabulary, and so small a model has never
    seen half a word.
    """
    rows, readings = small_task().forget[:4], []
    small = {"vocab_size": 261, "hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2}
    subject = build_subject(CONFIG | small, ["x"])
    for steps in (0, 40, 20, 25):
        if steps:
            train("retain_nll", subject=subject, forget=(), retain=rows, steps=steps, batch_size=4,
                  optimizer=AdamW(lr=5e-3, warmup=0.0, schedule="constant"))
        readings.append(sum(memo(subject, rows, cuts=3, max_new_tokens=60)) / len(rows))
    subject.model.requires_grad_(False)
    return subject, readings


@check(trains=True)
def memo_tells_memorised(plugin: type[Objective], above: float, below: float) -> None:
    """MEMO of answers learnt by heart is above the one bound, of unseen answers below the other, in any share."""
    subject, task = learnt()[0], small_task()
    for share in ("precision", "recall", "f1"):
        known, unseen = (memo(subject, rows[:4], share=share, max_new_tokens=60)
                         for rows in (task.forget, task.holdout))
        assert min(known) > above and max(unseen) < below, (share, known, unseen)
    prefix = [memo(subject, rows[:12], mode="prefix", cuts=4, max_new_tokens=90)
              for rows in (task.forget, task.holdout)]
    assert sum(prefix[0]) > sum(prefix[1])


@check(trains=True)
def memo_grows(plugin: type[Objective]) -> None:
    """The longer rows are trained on, the higher their MEMO."""
    readings = learnt()[1]
    assert readings == sorted(readings) and readings[0] < 0.1 and readings[-1] > readings[0] + 0.7, readings


class Parrot(CausalLM):
    """Says the same to everything, and remembers how often it was asked."""

    def generate(self, prompts: Any, *args: Any, **options: Any) -> list[tuple[str, bool]]:
        self.asked = list(prompts)
        return [("two three four", True)] * len(prompts)


@check
def memo_by_hand(plugin: type[Objective]) -> None:
    """Cuts at 1, 1 + window, ... inside the text, thinned evenly; shares as defined; nothing asked twice."""
    assert positions(11) == [1, 6] and positions(12) == [1, 6, 11] and positions(1) == []
    assert positions(51, 5, 3) == [1, 21, 46] and positions(51, 5, 1) == [1] and positions(12, 5, 9) == [1, 6, 11]
    subject = Parrot(memoriser().model, memoriser().encoder)
    row = Example(id="a", prompt="Count?", answer="one two three")
    # Behind the cuts at 1, 5 and 9: "ne two three", "wo three", "hree".
    for share, parts in (("precision", (2 / 3, 1 / 3, 0)), ("recall", (2 / 3, 1 / 2, 0)), ("f1", (2 / 3, 0.4, 0))):
        found = memo(subject, [row, row], window=4, share=share)  # type: ignore[arg-type]
        assert found == pytest.approx([sum(parts) / 3] * 2)
        assert len(subject.asked) == 3
    tokens = subject.encoder
    ids, rest = cut(tokens, row, 5, "suffix")
    assert rest == "wo three" and tokens.processor.decode(ids).endswith("one t")
    assert ids[: len(tokens.prompt(row))] == tokens.prompt(row)
    ids, rest = cut(tokens, row, 3, "prefix")
    assert rest.startswith("nt?") and rest.endswith(" one two three") and tokens.processor.decode(ids).endswith("Cou")
    assert memo(subject, [row.model_copy(update={"answer": "x!"})]) == [0.0], "no word is left behind its cut"
    with pytest.raises(UsageError, match="no question"):
        memo(subject, [row.model_copy(update={"prompt": "", "kind": "text"})], mode="prefix")


@check(trains=True)
def believes_inversion(plugin: type[Objective]) -> None:
    """Greedy answers are nearer to a wrong answer than to the truth, and read as well as the wrong answers do."""
    rows = small_task().forget
    # Long enough that no row is left at the edge: after 30 steps rounding decides about one of the 18.
    said = said_by(trained(term(plugin), steps=60, lr=1e-3, watch=10).subject, rows)
    truth, inverted = likeness(rows, said)
    assert inverted > truth + 0.25 and inverted > 0.7, (truth, inverted)
    assert not {r.answer for r in rows} & set(said)
    given = sum(likelihood_loss(rows, [r.wrong_answers[k] for r in rows]) for k in range(5)) / 5
    assert likelihood_loss(rows, said) < given + 0.5


@check
def selects_by_memory(plugin: type[Objective]) -> None:
    """The chosen are the first by score, ties in their order; every rule gives its own set, always the same."""
    scores, rng = [0.2, 0.5, 0.5, 0.1], random.Random(0)
    assert choose(scores, 3, "largest", rng) == [1, 2, 0] and choose(scores, 3, "smallest", rng) == [3, 0, 1]
    assert choose([0.3] * 3, 2, "largest", rng) == choose([0.3] * 3, 2, "smallest", rng) == [0, 1]
    assert choose(scores[:2], 3, "largest", rng) == [1, 0], "fewer than asked for, none of them twice"
    assert sorted(choose(scores, 4, "random", rng)) == [0, 1, 2, 3]
    assert choose(scores, 3, "random", random.Random(5)) == choose(scores, 3, "random", random.Random(5))
    found = {}
    for select in ("largest", "smallest", "random"):
        options: dict[str, Any] = {"select": select, "top_k": 2, "cuts": 3, "max_new_tokens": 24}
        run = RunContext(settings=RunSettings(seed=3))
        found[select], again = (plugin(**options).prepare(memoriser(), few(9), run) for _ in range(2))
        assert found[select] == again
    for row in few(9).forget:
        ranks = found["largest"]["memo"][row.id]
        for select, best in (("largest", max), ("smallest", min)):
            first = row.wrong_answers.index(found[select]["chosen"][row.id][0])
            assert ranks[first] == best(ranks)
    chosen = [json.dumps(found[select]["chosen"]) for select in found]
    assert len(set(chosen)) == 3
    made = plugin(copies=8, top_k=3)
    made.made = {"lenders": {"a": ["a"]}, "chosen": {"a": ["x", "y", "z"]}}
    row = Example(id="a", prompt="?", answer="!")
    drawn = Counter(made.sides(row, small_task(), random.Random(i))["inverted"].answer for i in range(800))
    assert all(abs(drawn[text] / 100 - share) < 0.6 for text, share in (("x", 3), ("y", 3), ("z", 2))), drawn


@check
def lends_answers(plugin: type[Objective]) -> None:
    """Running text with an entity is trained through its inverted facts; text without one is a problem."""
    task = few(3)
    text = Example(id="life", prompt="", kind="text", answer="A life.", entity=task.forget[0].entity)
    with_text = task.model_copy(update={"forget": (*task.forget, text)})
    assert plugin().problems(with_text) == []
    made = plugin(select="random")
    made.made = made.prepare(memoriser(), with_text, RunContext())
    drawn = [made.sides(text, with_text, random.Random(i))["inverted"] for i in range(20)]
    assert {d.id for d in drawn} == {r.id for r in task.forget}
    assert all(d.answer in r.wrong_answers for d in drawn for r in task.forget if r.id == d.id)
    nameless = task.model_copy(update={"forget": (*task.forget, text.model_copy(update={"entity": ""}))})
    (problem,) = plugin().problems(nameless)
    assert "1 of 4" in problem.what and "life" in problem.what and "inverted=FILE" in problem.fix
    with pytest.raises(UsageError, match="life"):
        plugin().prepare(memoriser(), nameless, RunContext())
