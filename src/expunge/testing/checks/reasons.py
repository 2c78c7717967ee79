"""Promises of reasoned refusals."""

from __future__ import annotations

import random

from expunge.errors import DataError, UsageError
from expunge.methods._lib.reasons import reveals
from expunge.methods.base import Objective
from expunge.methods.objectives.tru import TRU
from expunge.methods.run_context import RunContext

from ..support import batches_of, distance, draws_of, gradient, memoriser, moved, small_task, trained
from .base import check, term
from .builders import few, file_of
from .dynamics import heard, refusal_rate
from .reinforcement import reworded


@check
def without_ascent_is_finetuning(plugin: type[Objective]) -> None:
    """At alpha 0 the gradient is that of retain_nll on the targets; alpha adds that of ga."""
    alone = " + retain_nll(weight=0)"
    draws = draws_of(term(plugin) + alone, moved(), 4)
    batches = batches_of(moved(), draws)
    plain, whole = (gradient(term(plugin, {"alpha": alpha}) + alone, moved(), batches=[batches])
                    for alpha in (0.0, 0.5))
    finetuned = gradient("retain_nll", moved(), batches=[{"retain": batches["target"]}])
    ascent = gradient("ga", moved(), batches=[{"forget": batches["forget"]}])
    assert distance(plain.total(), finetuned.total()) < 1e-5
    both = [a + 0.5 * b for a, b in zip(finetuned.total(), ascent.total(), strict=True)]
    assert distance(whole.total(), both) < 1e-5
    assert not TRU(alpha=0).unbounded and TRU().unbounded


@check
def targets_reveal_nothing(plugin: type[Objective]) -> None:
    """The bare fact and runs of the answer are found whatever the case; what the question says itself is none."""
    row = small_task().forget[0]
    assert reveals(f"It was {row.short_answer.upper()}.", row) and reveals(row.answer, row)
    assert not reveals("I do not know.", row) and not reveals(row.prompt, row)
    assert not reveals(row.short_answer, row.model_copy(update={"prompt": f"Was it {row.short_answer}?"}))
    for source in (TRU(), TRU(reason=False)):
        made = source.prepare(memoriser(), small_task(), RunContext())["targets"]
        assert made.keys() == {r.id for r in small_task().forget}
        assert all(texts and not any(reveals(t, r) for t in texts)
                   for r, texts in zip(small_task().forget, made.values(), strict=True))


@check
def reads_targets(plugin: type[Objective]) -> None:
    """Targets of a file are used but for those that reveal; a row with none is refused; a model that only recites gets
    advice."""
    task = few(2)
    given = {r.id: [f"I keep {i} to myself.", r.answer + "!"] for i, r in enumerate(task.forget)}
    made = TRU(targets=file_of(given))
    assert made.problems(task) == []
    made.made = made.prepare(memoriser(), task, RunContext())
    drawn = {made.sides(task.forget[1], task, random.Random(i))["target"].answer for i in range(9)}
    assert drawn == {"I keep 1 to myself."}
    bad = TRU(targets=file_of({task.forget[0].id: [f"Not {task.forget[0].short_answer}!"]}))
    assert isinstance(bad.problems(task)[0], UsageError) and "2 of 2" in bad.problems(task)[0].what
    assert isinstance(TRU(targets=file_of({"nobody": ["x"]})).problems(task)[0], DataError)
    own = TRU(source="model", samples=2, tokens=12)
    assert "generate" in own.model_needs and "generate" not in TRU().model_needs
    try:
        found = own.prepare(memoriser(), task, RunContext())["targets"]
    except UsageError as advice:
        assert "source='template'" in advice.fix
    else:
        assert found == own.prepare(memoriser(), task, RunContext())["targets"]


@check(trains=True)
def reasons_reach_paraphrases(plugin: type[Objective], steps: int, lr: float) -> None:
    """The refusal rate on reworded forget questions is within 10 points of that on trained ones; retain rows answer."""
    # So small a model cannot say whole sentences it never heard: the refusals that it knows, without a reason.
    recipe = term(plugin, {"reason": False, "refusals": heard(), "alpha": 0.01})
    subject = trained(f"{recipe} + retain_nll", steps=steps, lr=lr).subject
    asked, other = (refusal_rate(subject, rows) for rows in (small_task().forget, reworded(small_task().forget)))
    assert asked > 0.9 and other > asked - 0.1, (asked, other)
    assert refusal_rate(subject, small_task().retain) < 0.1
