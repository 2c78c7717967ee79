"""Who's Harry Potter: train on the predictions of a model that has not read the text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from expunge.data.encoder import Batch
from expunge.errors import ExpungeError
from expunge.methods._lib.edited_teacher import EditedTeacher, replace
from expunge.methods._lib.generic import UNCOUNTED, generic_targets, read_terms, spell
from expunge.methods.base import WeightedSpec
from expunge.methods.finetune import finetune
from expunge.methods.run_context import RunContext
from expunge.models.language import CausalLM
from expunge.models.load import float32_master
from expunge.plugin import Card, Property
from expunge.records.task import Task
from expunge.seeding import derive


class WHP(EditedTeacher):
    """Finetune on generic tokens: the original's likeliest after logits raised by reinforcement are lowered."""

    builds = True

    class Spec(WeightedSpec):
        alpha: float = Field(5.0, ge=0, description="Nats a logit is lowered per nat of its rise.")
        reinforce_lr: float = Field(3e-6, gt=0, le=1e30, description="Learning rate of the reinforced copy.")
        reinforce_epochs: float = Field(3.0, gt=0, description="Epochs of the reinforced copy on the forget rows.")
        anchors: str | None = Field(None, description="JSON file {term: generic term}; the original reads the forget "
                                                      "rows in generic terms.")

    card = Card(
        name="whp", kind="objective",
        summary="finetune on generic predictions: what a reinforced model did not learn",
        paper="Eldan and Russinovich 2023, Who's Harry Potter? (arXiv 2310.02238)",
        formula="L = mean_t -log p(argmax(z0_t - alpha ReLU(z_reinforced_t - z0_t)))",
        defaults="alpha 5; reinforced copy 3 epochs at lr 3e-6, batch 8 times 16; then 2 epochs at lr 1e-6, no retain "
                 "term (the paper, partly from memory)",
        model_needs=frozenset({"distribution", "prompt", "weights"}),
        memory="before the first step one more copy in training; afterwards token ids only",
        deviations=("terms are matched on tokens anywhere in the text; anchors= lists them, none are generated",
                    "of a term only the first token of its first mention counts; the paper also lowers the logits of "
                    "generic terms that were mentioned before, the amount is unknown to us",
                    "the reinforced copy learns answers only where rows have prompts, with AdamW without weight decay, "
                    "a warm-up of one epoch and a linear decay",
                    "rows are not cut into blocks of 512 tokens; --max-length cuts them"),
    )
    space = {"alpha": ("log", 0.5, 10.0), "reinforce_lr": ("log", 1e-6, 1e-4), "weight": ("log", 0.1, 2.0)}
    must_show = (
        Property("lowers_what_rose", {}, "logits raised by reinforcement fall in rank, all others keep their bits; "
                                         "alpha 0 changes nothing"),
        Property("translates_anchors", {}, "the original reads generic terms, and every token keeps its counterpart"),
        Property("builds_generic_targets", {"lr": 1e-2, "epochs": 10.0},
                 "computed once as plain data; the original stays unchanged"),
        Property("learns_its_targets", {}, "the loss is that of finetuning on the generic tokens that count"),
        Property("never_negative", {}, "a cross-entropy"),
        Property("forgets", {"options": {"reinforce_lr": 1e-2, "reinforce_epochs": 10.0}},
                 "the loss of forget answers grows"),
    )

    def problems(self, task: Task) -> list[ExpungeError]:
        try:
            self._terms()
        except ExpungeError as error:
            return [error]
        return []

    def prepare(self, subject: CausalLM, task: Task, run: RunContext) -> dict[str, Any]:
        terms = spell(self._terms(), subject.encoder)
        reinforced = self._copy(subject)
        finetune(reinforced, task.forget, lr=self.spec.reinforce_lr, epochs=self.spec.reinforce_epochs,
                 batch_size=run.settings.batch_size, accumulate=run.settings.accumulate, seed=derive(run.seed, "whp"),
                 folder=run.folder and run.folder / "reinforced", title="reinforced model", announce=run.announce)
        # Both sides in one precision: the difference of their logits is small.
        plain = next(subject.model.parameters()).dtype == torch.float32
        base = subject if plain else self._copy(subject)
        rows = [subject.encoder.encode(example) for example in task.forget]
        targets: dict[str, Any] = {}
        for start in range(0, len(rows), run.settings.batch_size):
            part = rows[start: start + run.settings.batch_size]
            targets |= generic_targets(base, reinforced, part, self.spec.alpha, terms)
        return targets

    def edit(self, teacher_NV: Tensor, batch: Batch) -> Tensor:
        return replace(teacher_NV, self._targets(batch).clamp_min(0))

    def counted(self, batch: Batch) -> Tensor:
        return self._targets(batch) != UNCOUNTED

    def _terms(self) -> dict[str, str]:
        return read_terms(Path(self.spec.anchors)) if self.spec.anchors else {}

    def _targets(self, batch: Batch) -> Tensor:
        """Generic token for each supervised token, shape N."""
        targets = getattr(self, "made", {})
        missing = [row.id for row in batch.rows if row.key not in targets]
        if missing:
            raise ExpungeError(f"whp has no generic targets for row {missing[0]}.",
                               "Targets are computed from the task's forget rows before the first step.")
        ids = [token for row in batch.rows for token in targets[row.key]]
        return torch.tensor(ids, device=batch.device)

    @staticmethod
    def _copy(subject: CausalLM) -> CausalLM:
        copied = subject.clone()
        float32_master(copied)
        return copied
