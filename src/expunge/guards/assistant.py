"""The assistant of `uld`: which rows it recites, on which it stays flat, and how it is trained.

Legend: N supervised tokens (flat), V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from torch import Tensor

from expunge.methods._lib.weighted_likelihood import token_mean
from expunge.methods.recipe import training_stage
from expunge.methods.run_context import RunContext
from expunge.methods.stage import StageMethod
from expunge.models.scope import Scope
from expunge.models.subject import Subject
from expunge.records.task import Example, Task
from expunge.seeding import derive, stream
from expunge.training.fit import fit
from expunge.training.loop import Loop
from expunge.training.schedule import Schedule
from expunge.training.step import Role, Step, WeightedTerm


def uniform_cross_entropy(logits_NV: Tensor) -> Tensor:
    """Cross-entropy of softmax(logits) against the uniform distribution, in nats, shape N; log V at its least."""
    return logits_NV.float().logsumexp(-1) - logits_NV.float().mean(-1)


@dataclass(frozen=True)
class Lesson:
    """What the assistant learns from.

    Args:
        recited: forget rows and their paraphrases.
        flat: retain rows and wrong answers to the forget questions.
        unseen: retain rows that were not drawn.
        counts: how many of each kind, for the record.
    """

    recited: tuple[Example, ...]
    flat: tuple[Example, ...]
    unseen: tuple[Example, ...]
    counts: dict[str, int]


def lesson(task: Task, *, paraphrases: int, wrong_answers: int, retain_rows: int, seed: int) -> Lesson:
    """The rows of a task, with as many paraphrases and wrong answers per forget row as it has and may use."""
    order = list(task.retain)
    if len(order) > retain_rows:
        stream(seed, "uld", "retain").shuffle(order)
    kept, unseen = order[:retain_rows], order[retain_rows:]
    said = [again for row in task.forget for again in _paraphrased(row, paraphrases)]
    wrong = [_variant(row, f"wrong{i}", answer=text) for row in task.forget
             for i, text in enumerate(row.wrong_answers[:wrong_answers])]
    asked = {text for row in task.probe_rows("forget") for text in (*row.paraphrased_answers, *row.wrong_answers)}
    return Lesson((*task.forget, *said), (*kept, *wrong), tuple(unseen), {
        "forget": len(task.forget), "paraphrases": len(said), "retain": len(kept), "wrong_answers": len(wrong),
        "asked_by_audit": sum(row.answer in asked for row in (*said, *wrong))})


def _paraphrased(row: Example, count: int) -> Iterator[Example]:
    """Up to `count` rows that ask or say the same in other words."""
    pairs = zip_longest(row.paraphrased_prompts[:count], row.paraphrased_answers[:count])
    for i, (prompt, answer) in enumerate(pairs):
        yield _variant(row, f"paraphrase{i}", prompt=prompt or row.prompt, answer=answer or row.answer)


def _variant(row: Example, name: str, **changed: str) -> Example:
    return row.model_copy(update={"id": f"{row.id}#{name}"} | changed)


class Reversed(StageMethod):
    """The reversed objective: recite the forget side, be flat on the retain side.

    Args:
        assistant: what is trained.
        uniform: weight of the second term.
        lr: peak learning rate.
    """

    def __init__(self, assistant: Subject, task: Task, rows: Lesson, *, uniform: float, lr: float, seed: int) -> None:
        stage = training_stage("retain_nll").with_learning_rate(lr)  # for its optimizer, curve and sampler
        super().__init__(stage, assistant, task, (), rows.flat, seed)
        self._uniform = uniform
        self._sides = {"forget": rows.recited, "retain": rows.flat}
        self.shared_pass = ("forget", "retain")

    def order(self, epoch: int) -> list[dict[str, Example]]:
        """Every recited row once, each with a random flat one: both kinds in equal numbers."""
        return self._stage.sampler.order(self._sides, epoch, self._seed)

    def terms(self, step: Step, only: Role | None = None) -> list[WeightedTerm]:
        known, other = step.answers("forget"), step.answers("retain")
        apart_N = uniform_cross_entropy(other.logits_NV)
        return [WeightedTerm("recite", "forget", 1.0, token_mean(-known.logp_N, known, "forget")),
                WeightedTerm("flat", "retain", self._uniform, token_mean(apart_N, other, "retain"))]


def teach(assistant: Subject, task: Task, rows: Lesson, run: RunContext, *, uniform: float, lr: float,
          batch: int) -> dict[str, Any]:
    """Train the adapters of `assistant` in place, and say how it went.

    Args:
        batch: rows of each side per step, in micro-batches of `run.settings.batch_size`.
    """
    method = Reversed(assistant, task, rows, uniform=uniform, lr=lr, seed=run.seed)
    accumulate = max(math.ceil(batch / run.settings.batch_size), run.settings.accumulate)
    schedule = Schedule(method.order, assistant.encoder, min(run.settings.batch_size, batch), accumulate)
    steps = run.settings.total_steps(schedule.steps_per_epoch)
    loop = Loop(steps=steps, seed=derive(run.seed, "uld", "loop"))
    scope = Scope(assistant, tuple(n for n, _ in assistant.model.named_parameters() if ".adapter." in n))
    tick = run.announce("assistant", steps)
    progress = fit(method, assistant, scope, schedule, loop, folder=run.folder, on_step=lambda line: tick(1)).progress
    return {"steps": steps, "train_s": round(progress.seconds, 3), "trained": scope.counts()["trainable"]}


def readings(assistant: Subject, task: Task, rows: Lesson, batch_size: int = 32) -> dict[str, float]:
    """What a good assistant shows: `forget_nll` (nats per token) small, `flatness` (entropy / log V) near 1.

    Flatness is taken on retain rows it was not trained on where there are any, and on all of them otherwise.
    """
    other = rows.unseen or task.retain
    nll = [-logp for logits_NV, logp in _answers(assistant, task.forget, batch_size) for logp in logp.tolist()]
    flat = [h for logits_NV, _ in _answers(assistant, other, batch_size)
            for h in (_entropy(logits_NV) / math.log(logits_NV.shape[-1])).tolist()]
    return {"forget_nll": sum(nll) / len(nll), "flatness": sum(flat) / len(flat), "flatness_unseen": bool(rows.unseen)}


def _answers(subject: Subject, rows: Sequence[Example], batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """(logits, log-probs of the true tokens) of every batch."""
    for start in range(0, len(rows), batch_size):
        chosen = [subject.encoder.encode(row) for row in rows[start: start + batch_size]]
        with subject.evaluating():
            answers = subject.answers(subject.collate(chosen))
            yield answers.logits_NV.float(), answers.logp_N


def _entropy(logits_NV: Tensor) -> Tensor:
    logp_NV = logits_NV.log_softmax(-1)
    return -(logp_NV.exp() * logp_NV).sum(-1)
