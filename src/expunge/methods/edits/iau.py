"""IAU: one step of ascent on forget rows and descent on the rest, in place of an influence function."""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from expunge import plugin
from expunge.errors import ExpungeError, UsageError
from expunge.methods._lib.importance import positions, summed_gradient
from expunge.methods.base import Edit
from expunge.models.load import float32_master
from expunge.models.subject import Subject
from expunge.plugin import Card, Property
from expunge.records.task import Task

EPS = 1e-8
"""Adam's."""


def single_step(weight: Tensor, forget: Tensor, retain: Tensor, lr: float, rule: Literal["adam", "sgd"]) -> Tensor:
    """The weight after one step along retain - forget: plain descent, or Adam's first step, lr * g / (|g| + eps)."""
    slope = retain - forget
    return weight - lr * (slope if rule == "sgd" else slope / (slope.abs() + EPS))


class IAU(Edit):
    """Add the virtual rows whose gradient is opposite to that of the forget rows, corrected by the rest."""

    class Spec(plugin.Spec):
        lr: float = Field(1e-3, ge=0, le=1e30, description="Rate of the step.")
        rule: Literal["adam", "sgd"] = Field("adam", description="Adam's first step, which takes the sign of every "
                                                                 "element, or plain descent.")
        scale: Literal["means", "counts"] = Field(
            "means", description="means: both gradients are means over their rows; counts: the mean over forget rows "
                                 "counts n_forget / n, as an influence function has it.")
        batch_size: int = Field(8, ge=1, description="Rows per pass; affects memory and time only.")

    card = Card(
        name="iau", kind="edit",
        summary="one step of ascent on forget rows and descent on the rest, for an influence function",
        paper="Efficient Machine Unlearning via Influence Approximation (arXiv 2507.23257)",
        formula="w <- w - lr * step(mean_r grad NLL - c mean_f grad NLL), c = 1 or n_f / n",
        defaults="lr 1e-3 with Adam on a small CNN in the paper; language models want about 1e-5",
        model_needs=frozenset({"logp", "weights"}),
        deviations=("the model is not trained with the authors' gradient restriction first",
                    "evaluation mode; in the authors' code statistics of batch norms change",
                    "a row's loss is the mean over its answer tokens",
                    "the theory divides the sum over forget rows by n: scale=counts; the authors' code takes means",
                    "the step size rule of the paper is not known here"),
    )
    space = {"lr": ("log", 1e-6, 1e-2), "rule": ("choice", "adam", "sgd")}
    must_show = (
        Property("is_one_step", {}, "with sgd the change is lr (g_f - g_r) exactly, with adam torch's first step"),
        Property("points_to_retraining", {}, "on a logistic regression its direction agrees with leaving the rows out"),
        Property("edit_forgets", {"options": {"lr": 6e-3}, "rise": 0.3}, "forget loss rises"),
    )

    def problems(self, task: Task) -> list[ExpungeError]:
        if task.retain or task.background:
            return []
        return [UsageError("iau corrects its step by the rows that stay, and the task has none.",
                           fix="Give --retain FILE.")]

    def apply(self, subject: Subject, task: Task, seed: int) -> dict[str, Any]:
        for problem in self.problems(task):
            raise problem
        float32_master(subject)
        sides = (task.forget, task.retain or task.background)
        encoded = [[subject.encoder.encode(e) for e in side] for side in sides]
        forget, retain = (summed_gradient(subject, rows, batch_size=self.spec.batch_size) for rows in encoded)
        share = 1.0 if self.spec.scale == "means" else len(sides[0]) / (len(sides[0]) + len(sides[1]))
        moved = total = 0.0
        with torch.no_grad():
            for name, weight in subject.model.named_parameters():
                new = single_step(weight, share / len(sides[0]) * forget[name], retain[name] / len(sides[1]),
                                  self.spec.lr, self.spec.rule)
                moved, total = moved + float((new - weight).pow(2).sum()), total + float(weight.pow(2).sum())
                weight.copy_(new)
        return {"edit": "iau", "positions": positions(subject, *encoded), "change": (moved / total) ** 0.5}
