"""UNDIAL: self-distillation from a teacher whose memorised logits are lowered."""

from __future__ import annotations

import random
from typing import Any

import torch
from pydantic import BaseModel, Field
from torch import Tensor

from expunge.data.encoder import Batch
from expunge.data.word_tokens import marked_tokens
from expunge.errors import ExpungeError, UsageError
from expunge.methods._lib.edited_teacher import EditedTeacher, distribution, subtract
from expunge.methods.base import WeightedSpec
from expunge.needs import ModelNeed
from expunge.plugin import Card, Property
from expunge.records.task import Example, Task
from expunge.training.step import Step


def lowered(teacher_NV: Tensor, target_N: Tensor, strength: float) -> Tensor:
    """Teacher distribution after `strength` is subtracted from the logit of each true token, shape N V."""
    return distribution(subtract(teacher_NV, target_N, strength))


class UNDIAL(EditedTeacher):
    """Distil the original into itself with the memorised token's logit lowered: bounded, stable."""

    class Spec(WeightedSpec):
        strength: float = Field(10.0, ge=0, description="Amount subtracted from the true token's logit (kappa).")
        focus: float = Field(1.0, ge=0, description="Factor of the loss of tokens that say the entity or the bare "
                                                    "fact of their row; 10 is published.")
        others: float = Field(1.0, ge=0, description="Factor of all other tokens; 0 is the published hard focus.")

    card = Card(
        name="undial", kind="objective",
        summary="self-distillation from the original with the true token's logit lowered",
        paper="Dong et al. 2024, UNDIAL (arXiv 2402.10052)",
        formula="L = mean_t f_t CE(softmax(z0_t - kappa * onehot(y_t)), softmax(z_t)), f_t = focus or others",
        defaults="kappa 10, lr 1e-4, no focus (open-unlearning); kappa 3, 10 or 30 in the paper, with focus 10 and "
                 "others 1, or 1 and 0",
        needs=frozenset({"reference.logits"}),
        model_needs=frozenset({"distribution", "weights"}),
        deviations=("the mean is over supervised tokens only; the public port averages over prompt and padding "
                    "and lowers an unrelated logit there",
                    "the focus is on a row's `entity` and `short_answer`, wherever its answer says them; the authors "
                    "let a tagger find named entities or nouns"),
    )
    fixes = {"sequence": "Leave focus and others at 1."}
    space = {"strength": ("log", 1.0, 30.0), "weight": ("log", 0.1, 2.0)}
    must_show = (
        Property("zero_gradient_at_start", {"options": {"strength": 0.0}}, "with strength 0 the gradient is 0"),
        Property("forgets", {}, "the loss of forget answers grows"),
        Property("plateaus", {"options": {"strength": 3.0}, "unlike": "ga"},
                 "the optimum is a finite distribution, so longer training does not diverge"),
        Property("keeps_other_odds", {}, "the target keeps the odds among all other tokens"),
    )

    def __init__(self, spec: BaseModel | None = None, **options: Any) -> None:
        super().__init__(spec, **options)
        self._words: dict[str, tuple[str, ...]] = {}  # row id -> the words in focus

    @property
    def focused(self) -> bool:
        return bool(self.spec.focus != self.spec.others)

    @property
    def model_needs(self) -> frozenset[ModelNeed]:
        return self.card.model_needs | ({"sequence"} if self.focused else frozenset())

    def problems(self, task: Task) -> list[ExpungeError]:
        if not self.focused or any(word in row.answer for row in task.forget for word in _words(row)):
            return []
        return [UsageError("undial has a focus, and no forget answer says its entity or its bare fact.",
                           "They are the fields `entity` and `short_answer` of a row.",
                           "Fill them in, or leave focus and others at 1.")]

    def sides(self, example: Example, task: Task, rng: random.Random) -> dict[str, Example]:
        self._words[example.id] = _words(example)
        return super().sides(example, task, rng)

    def weights(self, step: Step) -> Tensor | None:
        if not self.focused:
            return None if self.spec.focus == 1 else torch.tensor(self.spec.focus)
        batch, processor = step.batches["forget"], step.subject.encoder.processor
        marks = [m for row in batch.rows for m in marked_tokens(row, self._words[row.id], processor)]
        return torch.where(torch.tensor(marks, device=batch.device), self.spec.focus, self.spec.others)

    def edit(self, teacher_NV: Tensor, batch: Batch) -> Tensor:
        return subtract(teacher_NV, batch.target_N, self.spec.strength)


def _words(example: Example) -> tuple[str, ...]:
    return tuple(word for word in (example.entity, example.short_answer) if word)
