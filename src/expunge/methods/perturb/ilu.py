"""Invariant LLM unlearning: keep the model stationary for an unrelated task, so that fine-tuning on it restores
nothing."""

from __future__ import annotations

import random
from functools import cache
from pathlib import Path
from typing import ClassVar

from pydantic import Field
from torch import Tensor

from expunge import plugin
from expunge.data.files import read_examples
from expunge.methods._lib.own_gradients import mean_gradient, mean_of, with_batches
from expunge.methods.base import Perturb
from expunge.models.answers import Answers
from expunge.models.head import raised
from expunge.models.scope import Scope
from expunge.models.subject import Subject
from expunge.plugin import Card, Property
from expunge.records.task import Example, Task
from expunge.training.gradients import Gradient, Oracle


def scale_gradient(logits_NV: Tensor, target_N: Tensor) -> Tensor:
    """d/dw of -log softmax(w z)_y at w = 1, of every token: sum_v p_v z_v - z_y; shape N."""
    z_NV = raised(logits_NV)
    return (z_NV.softmax(-1) * z_NV).sum(-1) - z_NV.gather(1, target_N[:, None])[:, 0]


class ILU(Perturb):
    """Add the gradient of the invariance penalty on rows of an unrelated task."""

    class Spec(plugin.Spec):
        weight: float = Field(0.1, ge=0, description="Factor of the penalty (lambda); 0 adds nothing.")
        rows: str | None = Field(None, description="File of rows of an unrelated task; the task's background rows, or "
                                                   "retain rows without any, if left out.")

    card = Card(
        name="ilu", kind="perturb",
        summary="keep the gradient of an unrelated task small, so that fine-tuning on it restores nothing",
        paper="Wang et al. 2025, Invariance Makes LLM Unlearning Resilient Even to Unanticipated Downstream "
              "Fine-Tuning, ICML 2025 (arXiv 2506.01339); Arjovsky et al. 2019 (arXiv 1907.02893)",
        formula="L_u + lambda (d/dw NLL(w z; D) at w = 1)^2, whose inner part is mean_t (sum_v p_v z_v - z_y)",
        defaults="lambda 0.05 to 0.1; one unrelated set, GSM8K in the paper, is enough, and forget rows do not serve",
        model_needs=frozenset({"distribution", "weights"}),
        memory="1: the gradient of the penalty",
        deviations=("no code of the penalty is public: the equations are those of the text",
                    "one batch of unrelated rows per step, as many as forget rows; the mean within the square is over "
                    "its tokens",
                    "rows of the task stand in for the unrelated set unless rows= names one"),
    )
    backpropagates = True
    reads: ClassVar[tuple[str, ...]] = ("unrelated",)
    space = {"weight": ("log", 0.01, 1.0)}
    must_show = (
        Property("does_nothing", {"options": {"weight": 0.0}}, "weight 0 is the base method, bit for bit"),
        Property("restores_weights", {}, "weights are restored bit for bit, also after an exception"),
        Property("penalty_in_closed_form", {}, "value and gradient are those of autograd through the scale"),
        Property("adds_penalty", {}, "what is added is lambda times the gradient of the square, over micro-batches"),
        Property("penalty_stays_lower", {"weight": 10.0}, "after training the unrelated task pulls less"),
    )

    @property
    def idle(self) -> bool:
        return bool(self.spec.weight == 0)

    def sides(self, task: Task, rng: random.Random) -> dict[str, Example]:
        rows = _read(self.spec.rows) if self.spec.rows else task.background or task.retain or task.forget
        return {"unrelated": rows[rng.randrange(len(rows))]}

    def gradient(self, subject: Subject, scope: Scope, plain: Oracle, *, step: int, total: int, seed: int) -> Gradient:
        gradient, batches = with_batches(plain, "unrelated")

        def slope(answers: Answers) -> Tensor:
            return scale_gradient(answers.logits_NV, answers.batch.target_N)

        now = mean_of(subject, batches, slope)
        added = mean_gradient(subject, scope, batches, slope, factor=2 * self.spec.weight * now)
        self.spent = 4 * sum(batch.count("positions") for batch in batches) // 3
        return [g + a for g, a in zip(gradient, added, strict=True)]


@cache
def _read(file: str) -> tuple[Example, ...]:
    return tuple(read_examples(Path(file)))
