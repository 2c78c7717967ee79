"""Selective synaptic dampening: shrink weights far more important to the forget rows than to all rows."""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from expunge import plugin
from expunge.errors import ExpungeError, UsageError
from expunge.methods._lib.importance import importance, positions
from expunge.methods.base import Edit
from expunge.models.load import float32_master
from expunge.models.subject import Subject
from expunge.plugin import Card, Property
from expunge.records.task import Task


def dampen(weight: Tensor, forget: Tensor, everything: Tensor, alpha: float, lambda_: float) -> Tensor:
    """Weight times min(lambda I_D / I_f, 1) where I_f > alpha I_D, and unchanged elsewhere.

    Args:
        weight, forget, everything: a parameter and its importances I_f and I_D, of one shape; the
            importances are non-negative and use batches of one size.
    """
    factor = (lambda_ * everything / forget).clamp(max=1)
    return torch.where(forget > alpha * everything, weight * factor, weight)


class SSD(Edit):
    """Two passes for importances, then every weight specific to the forget rows is scaled down."""

    class Spec(plugin.Spec):
        alpha: float = Field(10.0, gt=0, description="A weight is dampened if its importance to the forget rows is "
                                                     "more than alpha times that to all rows.")
        lambda_: float = Field(1.0, ge=0, description="Numerator of the dampening; 0 prunes the selected weights.")
        batch_size: int = Field(8, ge=1, description="Rows per squared gradient, the same for both passes; 1 is the "
                                                     "per-sample Fisher diagonal.")
        loss_free: bool = Field(False, description="Importance from the squared norm of the logits (LFSSD), "
                                                   "without labels.")

    card = Card(
        name="ssd", kind="edit",
        summary="selective synaptic dampening: shrink weights important mostly to the forget rows",
        paper="Foster et al. 2024, Selective Synaptic Dampening (arXiv 2308.07707); LFSSD (arXiv 2402.19308)",
        formula="w <- w * min(lambda * I_D / I_f, 1) where I_f > alpha * I_D; I = mean_batches (grad CE_batch)^2",
        defaults="alpha 10, lambda 1 (ResNet-18 in the paper; alpha 5 to 50 elsewhere); batches of 8 are our choice, "
                 "the authors use 64 or 128 images",
        model_needs=frozenset({"logp", "weights"}),
        deviations=("batches are weighted by their number of rows, for a smaller last one",
                    "I_D is taken over all training rows the task holds: forget, retain and background",
                    "a row's loss is the mean over its answer tokens; the classifier form comes with classifiers, and "
                    "with it the published bounds (forget accuracy at chance, retain within 3 points)"),
    )
    space = {"alpha": ("log", 1.0, 100.0), "lambda_": ("log", 0.05, 1.0)}
    must_show = (
        Property("dampens_elementwise", {}, "no weight grows, and none moves where I_f <= alpha I_D; "
                                            "the selection depends on importances only; lambda 0 prunes"),
        Property("keeps_everything", {"options": {"alpha": 1e30}}, "alpha to infinity is the identity"),
        Property("keeps_when_forgetting_all", {"options": {"alpha": 1.0}}, "no weight is specific if D_f is D"),
        Property("counts_rows_not_batches", {}, "importances are those of the definition, row by row"),
        Property("edit_forgets", {"rise": 0.8, "retain_rise": 0.1},
                 "forget loss rises, retain loss by little, without a step of training"),
        Property("edit_forgets", {"options": {"alpha": 2.0, "loss_free": True}, "rise": 0.8, "retain_rise": 0.2},
                 "the same without labels"),
    )

    def problems(self, task: Task) -> list[ExpungeError]:
        if task.retain or task.background:
            return []
        return [UsageError("ssd compares forget rows with all rows, and the task has no others.",
                           fix="Give --retain FILE.")]

    def apply(self, subject: Subject, task: Task, seed: int) -> dict[str, Any]:
        for problem in self.problems(task):
            raise problem
        float32_master(subject)
        spec = self.spec
        sides = [[subject.encoder.encode(e) for e in rows] for rows in (task.forget, task.training_rows("full"))]
        forget, everything = (importance(subject, rows, batch_size=spec.batch_size, seed=seed,
                                         loss_free=spec.loss_free) for rows in sides)
        dampened, factors = {}, 0.0
        with torch.no_grad():
            for name, weight in subject.model.named_parameters():
                chosen = forget[name] > spec.alpha * everything[name]
                dampened[name] = int(chosen.sum())
                ratio = spec.lambda_ * everything[name][chosen] / forget[name][chosen]
                factors += float(ratio.clamp(max=1).sum())
                weight.copy_(dampen(weight, forget[name], everything[name], spec.alpha, spec.lambda_))
        count, whole = sum(dampened.values()), sum(p.numel() for p in subject.model.parameters())
        most = sorted(dampened, key=lambda name: -dampened[name])[:5]
        return {"edit": "ssd", "positions": positions(subject, *sides), "dampened": count, "share": count / whole,
                "mean_factor": factors / count if count else 1.0,
                "most": {name: dampened[name] for name in most if dampened[name]}}
