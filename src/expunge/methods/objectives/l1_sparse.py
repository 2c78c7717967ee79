"""l1-sparse unlearning: fine-tune on retain rows while small weights are pulled to zero."""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch
from pydantic import Field

from expunge.errors import ExpungeError, UsageError
from expunge.methods._lib.weighted_likelihood import token_mean
from expunge.methods.base import Objective, WeightedSpec
from expunge.plugin import Card, Property
from expunge.records.task import Example, Task
from expunge.training.step import Step, Term


class L1Sparse(Objective):
    """Train on retain rows alone, with an l1 penalty that fades: what no retain row needs is lost."""

    class Spec(WeightedSpec):
        gamma: float = Field(1e-5, ge=0, description="Factor of the summed absolute weights at the start; 0 is plain "
                                                     "fine-tuning on retain rows.")
        free: float = Field(0.2, ge=0, lt=1, description="Share of the steps at the end without the penalty.")

    card = Card(
        name="l1_sparse", kind="objective",
        summary="fine-tune on retain rows with an l1 penalty on all weights that fades",
        paper="Jia et al. 2023, Model Sparsity Can Simplify Machine Unlearning (arXiv 2304.04934)",
        formula="L = NLL(retain) + gamma_t ||theta||_1, gamma_t = gamma (1 - t / ((1 - free) T)), 0 at the end",
        defaults="gamma 5e-4 with SGD at 0.01 over 10 epochs on ResNet-18 (1e-5 to 1e-3); 1e-5 here, with AdamW",
        needs=frozenset({"retain"}),
        model_needs=frozenset({"logp", "weights"}),
        conflicts=frozenset({"lora", "reglu"}),
        deviations=("the factor falls with every step; the authors' falls once an epoch",
                    "the optimizer of the recipe, AdamW unless another is named: it rescales the penalty's gradient "
                    "with that of the loss",
                    "no adapter: the penalty would be on the adapter's weights",
                    "all weights that may move, norms and biases too, as in the authors' code"),
    )
    reads = ("kept",)
    space = {"gamma": ("log", 1e-6, 1e-3), "weight": ("log", 0.5, 2.0)}
    must_show = (
        Property("without_penalty_is_finetuning", {}, "gamma 0 has the gradient of retain_nll, bit for bit"),
        Property("penalty_fades", {}, "linear in the step, and none over the last share"),
        Property("weights_shrink", {"gammas": (0.0, 1e-4, 1e-3)}, "the sum of absolute weights falls with gamma"),
    )
    _factor = 1.0
    """gamma_t / gamma of the step at hand."""

    def rows(self, task: Task) -> Sequence[Example]:
        return task.retain

    def problems(self, task: Task) -> list[ExpungeError]:
        return [] if task.retain else [UsageError("l1_sparse trains on retain rows, and the task has none.",
                                                  fix="Give --retain FILE.")]

    def begin(self, step: int, total: int) -> None:
        self._factor = max(1 - step / ((1 - self.spec.free) * total), 0.0)

    def sides(self, example: Example, task: Task, rng: random.Random) -> dict[str, Example]:
        return {"kept": example}

    def terms(self, step: Step) -> dict[str, Term]:
        answers = step.answers("kept")
        found = {"l1_sparse": token_mean(-answers.logp_N, answers, "kept")}
        gamma = self.spec.gamma * self._factor
        if gamma:
            free = [p for p in step.subject.model.parameters() if p.requires_grad]
            size = torch.stack([p.abs().sum() for p in free]).sum() if free else answers.logp_N.sum() * 0
            found["l1"] = Term((gamma * size).expand(len(answers.batch)), "sequences", "kept")
        return found
