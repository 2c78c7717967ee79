"""The search for the strength of a corruption: forget answers are to be as likely as for a model that never knew."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from expunge.guards.corruption import Search, search
from expunge.methods.run_context import RunContext
from expunge.models.subject import AnySubject
from expunge.records.task import Example, Task
from expunge.training.monitor import Monitor

FIRST, WIDTH, LEAST = 0.1, 0.0999, 0.1
"""Where the search begins, the width of its differences, and the smallest strength (public code)."""
ENOUGH = 0.01
"""Distance at which it stops."""


def searched(guarded: Callable[[float], AnySubject], subject: AnySubject, task: Task, run: RunContext, *, rate: float,
             most: float, steps: int) -> Search:
    """The strengths that were tried, on the forget rows.

    Args:
        guarded: strength -> the guarded subject.
        most: the largest strength.
    """
    goal = Monitor(subject, task, run.seed).never_trained()
    wrong = [row.model_copy(update={"id": f"{row.id}#wrong", "answer": row.wrong_answers[0]})
             for row in task.forget if row.wrong_answers]
    goal = goal if goal is not None else mean_probability(subject, wrong) if wrong else 0.0
    tick = run.announce("strength", 3 * steps + 1)

    def loss(strength: float) -> float:
        tick(1)
        return abs(mean_probability(guarded(strength), task.forget) - goal)

    return search(loss, FIRST, rate=rate, width=WIDTH, least=LEAST, most=most, steps=steps, enough=ENOUGH)


def mean_probability(subject: AnySubject, rows: Sequence[Example]) -> float:
    """Mean over the rows of exp(mean log-probability of the answer's tokens)."""
    encoded = [subject.encoder.encode(row) for row in rows]
    found: list[float] = []
    with subject.evaluating():
        for few in subject.encoder.batches(encoded):
            batch = subject.collate([encoded[i] for i in few])
            answers = subject.answers(batch)
            sums_B = answers.per_row(answers.logp_N)
            found += [math.exp(float(s) / row.supervised) for s, row in zip(sums_B, batch.rows, strict=True)]
    return sum(found) / len(found)
