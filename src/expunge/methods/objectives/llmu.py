"""LLMU: ascent on the forget answers, and unrelated answers to the forget questions."""

from __future__ import annotations

import random
from typing import Any, ClassVar

import torch
from pydantic import BaseModel, Field
from torch import Tensor

from expunge.methods._lib.weighted_likelihood import sequence_mean
from expunge.methods.base import Objective, WeightedSpec
from expunge.models.answers import Answers
from expunge.plugin import Card, Property
from expunge.records.task import Example, Task
from expunge.training.step import Step, Term


def mean_logp(answers: Answers) -> Tensor:
    """Mean log-prob per token of each answer, shape B; every row has the same weight."""
    return answers.row_means(answers.logp_N)


class LLMU(Objective):
    """Raise the loss of forget answers and train on answers to other questions in their place."""

    class Spec(WeightedSpec):
        ascent: float = Field(0.5, ge=0, description="Coefficient of gradient ascent on the answers.")
        mismatch: float = Field(1.0, ge=0, description="Coefficient of unrelated answers; 0 removes them.")
        answers: int = Field(5, ge=1, description="Unrelated answers per forget row and step.")

    card = Card(
        name="llmu", kind="objective",
        summary="gradient ascent on answers plus random benign answers to the same questions",
        paper="Yao et al. 2023, Large Language Model Unlearning (arXiv 2310.10683); Machine Unlearning in Large "
              "Language Models (arXiv 2405.15152)",
        formula="L = e1 * mean_seq mean_t log p(y_t | x) + e2 * mean_seq mean_k mean_t -log p(y'_kt | x)  "
                "(+ e3 * KL(q0 || q) on benign rows)",
        defaults="e1 0.5, e2 1, e3 1, 5 answers, batch 2, 1000 steps, lr 2e-6 on all weights or 1e-3 on an adapter "
                 "(ga_lora), linear decay",
        needs=frozenset({"retain"}),
        model_needs=frozenset({"distribution", "logp", "weights"}),
        companions="retain_kl",
        memory="activations of one more row per unrelated answer",
        unbounded=True,
        deviations=("unrelated answers are those of retain rows, drawn again each time a row is drawn; the study "
                    "uses a list of benign answers",
                    "the third term is the divergence at supervised retain tokens; the study takes the cross-entropy "
                    "(the same gradient) at every position",
                    "all terms use the run's template; the study rewrites the question for the second",
                    "a mean is over the tokens of an answer; the study's code divides by their number plus one",
                    "the ascent stops at a forget loss of log(vocabulary); the study's threshold compares a loss that "
                    "only falls, so it never stops",
                    "running text has no question, so its unrelated answers have none either"),
    )
    reads: ClassVar[tuple[str, ...]] = ("forget",)
    space = {"ascent": ("log", 0.05, 2.0), "mismatch": ("log", 0.1, 4.0), "answers": ("choice", 1, 2, 5)}
    must_show = (
        Property("is_answer_ascent", {}, "without its other terms it is gradient ascent on the answers"),
        Property("answers_are_benign", {}, "unrelated answers are distinct answers of retain rows, new at every draw"),
        Property("weighs_two_terms", {}, "the gradient is that of both terms computed row by row"),
        Property("forgets", {"options": {"answers": 1}}, "the loss of forget answers grows"),
        Property("grows_without_bound", {"options": {"answers": 1}, "lr": 1e-3}, "the loss is unbounded"),
    )

    def __init__(self, spec: BaseModel | None = None, **options: Any) -> None:
        super().__init__(spec, **options)
        count = self.spec.answers if self.spec.mismatch else 0
        self._unrelated = tuple(f"unrelated_{k}" for k in range(1, count + 1))
        self.reads = ("forget", *self._unrelated)  # type: ignore[misc]  # the number of sides depends on the options

    @property
    def unbounded(self) -> bool:
        return bool(self.spec.ascent)

    def sides(self, example: Example, task: Task, rng: random.Random) -> dict[str, Example]:
        others = [row for row in task.retain if row.kind != "text"] or list(task.retain)
        count = len(self._unrelated)
        drawn = rng.sample(others, count) if count <= len(others) else rng.choices(others, k=count)
        changed = {side: example.model_copy(update={"answer": row.answer})
                   for side, row in zip(self._unrelated, drawn, strict=True)}
        return {"forget": example, **changed}

    def terms(self, step: Step) -> dict[str, Term]:
        terms = {"llmu_ascent": sequence_mean(self.spec.ascent * mean_logp(step.answers("forget")), "forget")}
        if self._unrelated:
            loss_B = -torch.stack([mean_logp(step.answers(side)) for side in self._unrelated]).mean(0)
            terms["llmu_mismatch"] = sequence_mean(self.spec.mismatch * loss_B, "forget")
        return terms
