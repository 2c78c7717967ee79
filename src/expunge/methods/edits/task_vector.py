"""Task-vector negation: finetune a copy on the forget rows and subtract its change."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from expunge import plugin
from expunge.methods.base import Edit
from expunge.methods.finetune import finetune
from expunge.models.load import float32_master
from expunge.models.subject import Subject
from expunge.plugin import Card, Property
from expunge.records.task import Task


def negate(weights: Mapping[str, Tensor], finetuned: Mapping[str, Tensor], scale: float) -> dict[str, Tensor]:
    """weights - scale * (finetuned - weights) for every floating-point tensor, computed in float32.

    Each tensor must occur under one name: tied embeddings must not be negated twice. Integer tensors are
    returned unchanged.
    """
    return {
        name: (w.float() - scale * (finetuned[name].float() - w.float())).to(w.dtype) if w.is_floating_point() else w
        for name, w in weights.items()
    }


class TaskVector(Edit):
    """Fine-tune a copy on the forget rows and subtract its change."""

    class Spec(plugin.Spec):
        scale: float = Field(1.0, description="Multiple of the task vector to subtract; 0 changes nothing and "
                                              "-1 is the fine-tuned copy itself.")
        epochs: float = Field(5.0, gt=0, description="Epochs of the copy over the forget rows.")
        lr: float = Field(1e-5, gt=0, le=1e30, description="Peak learning rate of the copy's training.")
        batch_size: int = Field(8, ge=1, description="Rows per step of the copy's training.")

    card = Card(
        name="task_vector", kind="edit", target="capability",
        summary="fine-tune a copy on the forget rows and subtract the change (negated task vector)",
        paper="Ilharco et al. 2023, Editing Models with Task Arithmetic (arXiv 2212.04089); MUSE (arXiv 2407.06460)",
        formula="w <- w - scale * (w_ft - w)",
        defaults="scale 1, lr 1e-5, 5 epochs (MUSE trains 5 to 10); batches of 8 are our choice",
        model_needs=frozenset({"logp", "weights"}),
        deviations=("the copy is trained by the package's loop with its AdamW",),
    )
    space = {"scale": ("uniform", 0.1, 3.0), "lr": ("log", 1e-6, 1e-3), "epochs": ("uniform", 1.0, 10.0)}
    must_show = (
        Property("linear_in_scale", {"lr": 1e-3}, "the change is linear in the scale, none at 0, the fine-tuned "
                                                  "copy at -1"),
        Property("negates_once", {}, "tied embeddings once, integers not at all, bfloat16 differences not lost"),
        Property("rises_with_scale", {"lr": 1e-3}, "the loss of forget answers grows steadily with a small scale"),
        Property("edit_forgets", {"options": {"lr": 1e-3, "scale": 3.0}, "rise": 0.5, "retain_rise": 0.3},
                 "forget answers are lost, others less"),
    )

    def apply(self, subject: Subject, task: Task, seed: int) -> dict[str, Any]:
        float32_master(subject)
        spec = self.spec
        learned = subject.clone()
        finetune(learned, task.forget, epochs=spec.epochs, lr=spec.lr, batch_size=spec.batch_size, seed=seed,
                 announce=self.announce)
        before = dict(subject.model.named_parameters())  # a tied weight occurs once
        changed = negate(before, dict(learned.model.named_parameters()), spec.scale)
        moved = size = 0.0
        with torch.no_grad():
            for name, weight in before.items():
                moved += float((changed[name] - weight).pow(2).sum())
                size += float(weight.pow(2).sum())
                weight.copy_(changed[name])
        return {"edit": "task_vector", "scale": spec.scale, "change": (moved / size) ** 0.5}
