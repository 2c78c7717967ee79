"""TALL-masks: negate the forget rows' task vector only where that task outweighs the others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from pydantic import Field

from expunge import plugin
from expunge.errors import ExpungeError, UsageError
from expunge.methods._lib.task_masks import Vector, parts_of, summed, tall_mask, task_vector
from expunge.methods.base import Edit
from expunge.models.load import float32_master
from expunge.models.subject import Subject
from expunge.plugin import Card, Property
from expunge.records.task import Task


class TallMasks(Edit):
    """Fine-tune copies on the forget rows and on parts of the retain rows; subtract the first within its mask."""

    class Spec(plugin.Spec):
        threshold: float = Field(0.4, ge=0, description="Lambda: a weight belongs to the forget rows where their "
                                                        "change exceeds lambda times all others' together; 0: all.")
        scale: float = Field(1.0, description="Multiple of the masked change to subtract; 0 changes none.")
        parts: int = Field(2, ge=1, description="Tasks that the retain rows make, each with entities of its own.")
        epochs: float = Field(5.0, gt=0, description="Epochs of each copy over its rows.")
        lr: float = Field(1e-5, gt=0, le=1e30, description="Peak learning rate of the copies' training.")
        batch_size: int = Field(8, ge=1, description="Rows per step of the copies' training.")

    card = Card(
        name="tall_masks", kind="edit", target="capability",
        summary="subtract what fine-tuning on the forget rows changes, where it outweighs other tasks",
        paper="Localizing Task Information for Improved Model Merging and Compression, ICML 2024 (arXiv 2405.07813)",
        formula="w <- w - scale m_f v_f, m_f = 1[|v_f| > lambda |sum_t v_t - v_f|], v_t the task vectors",
        defaults="lambda 0.4, the middle of the authors' 0.2 to 0.6, which they choose by validation",
        needs=frozenset({"retain"}),
        model_needs=frozenset({"logp", "weights"}),
        memory="a change of the weights for each part, and a copy while one is trained",
        deviations=("forgetting by a masked negation is ours: the paper localises tasks to merge and to compress them",
                    "tasks are the forget rows and parts of the retain rows, fine-tuned from this model",
                    "every parameter counts once, a tied one too; the output head is not left out"),
    )
    space = {"threshold": ("uniform", 0.2, 0.6), "scale": ("uniform", 0.1, 3.0), "lr": ("log", 1e-6, 1e-3)}
    must_show = (
        Property("masks_by_definition", {}, "one task: all ones; lambda 0: all that moved; density falls with lambda; "
                                            "disjoint tasks are told apart"),
        Property("keeps_everything", {"options": {"scale": 0.0, "epochs": 1}}, "scale 0 changes no weight"),
    )

    def problems(self, task: Task) -> list[ExpungeError]:
        if task.retain:
            return []
        return [UsageError(f"{self.card.name} compares the forget rows with other tasks, and there are no retain rows.",
                           fix="Give --retain FILE, or take task_vector.")]

    def mask(self, vectors: Sequence[Vector]) -> Vector:
        """Where the first vector is subtracted."""
        return tall_mask(vectors[0], summed(vectors), self.spec.threshold)

    def apply(self, subject: Subject, task: Task, seed: int) -> dict[str, Any]:
        for problem in self.problems(task):
            raise problem
        float32_master(subject)
        spec = self.spec
        vectors = [task_vector(subject, rows, epochs=spec.epochs, lr=spec.lr, batch_size=spec.batch_size, seed=seed,
                               announce=self.announce)
                   for rows in (list(task.forget), *parts_of(task, spec.parts, seed))]
        mask, moved, size, chosen, count = self.mask(vectors), 0.0, 0.0, 0, 0
        with torch.no_grad():
            for name, weight in subject.model.named_parameters():
                step = spec.scale * vectors[0][name] * mask[name]
                moved, size = moved + float(step.square().sum()), size + float(weight.square().sum())
                chosen, count = chosen + int(mask[name].sum()), count + mask[name].numel()
                if spec.scale:
                    weight -= step
        return {"edit": self.card.name, "tasks": len(vectors), "density": chosen / count,
                "change": (moved / size) ** 0.5}
