"""RepSelect: one ascent direction with the top of its spectrum collapsed, as long as a budget of divergence allows."""

from __future__ import annotations

import math
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from expunge import plugin
from expunge.errors import ExpungeError, UsageError
from expunge.methods._lib.calibrate import calibrate
from expunge.methods._lib.importance import summed_gradient
from expunge.methods._lib.selective import mean_divergence, mlp_matrices, relearned
from expunge.methods._lib.spectrum import Sides, collapsed
from expunge.methods.base import Edit
from expunge.models.load import float32_master
from expunge.models.reference import build_reference
from expunge.models.subject import Subject
from expunge.plugin import Card, Property
from expunge.records.task import Task
from expunge.seeding import derive, stream


class RepSelect(Edit):
    """Ascend on the forget rows along a direction without what they share, to a fixed divergence on neutral rows."""

    class Spec(plugin.Spec):
        share: float = Field(0.125, ge=0, le=1, description="Components that are collapsed, as a share of the smaller "
                                                            "side of each matrix; 0 collapses none.")
        sides: Sides = Field("both", description="Whether input directions, output directions or both are collapsed.")
        adversary_lr: float = Field(0.01, ge=0, le=1e30, description="Rate of the adapter that learns the rows before "
                                                                     "the gradient is taken; 0 takes it at once.")
        rank: int = Field(8, ge=1, description="Rank of that adapter.")
        batch_size: int = Field(8, ge=1, description="Rows per step of the adversary.")
        budget: float = Field(0.01, gt=0, description="Mean divergence from the original on neutral rows at which the "
                                                      "step ends, nats per token.")
        neutral: int = Field(128, ge=1, description="Neutral rows that it is read on.")

    card = Card(
        name="repselect", kind="edit", target="capability",
        summary="one ascent step without the directions that the rows share, up to a divergence budget",
        paper="RepSelect: Robust LLM Unlearning via Representation Selectivity (arXiv 2606.17168)",
        formula="W <- W + eta C(G), G the gradient of the forget loss under an adversary, C: s_i -> s_K^2 / s_i for "
                "i <= K, eta at KL(original || W) = budget",
        defaults="K 512 of width 4096 (share 0.125), adapter rank 8 at 0.01 for one epoch, budget 0.01 on 128 rows; "
                 "the authors search both rates",
        model_needs=frozenset({"distribution", "hidden", "logp", "weights"}),
        memory="2: the gradient of the MLPs, and a copy of the model while the adversary learns",
        deviations=("the step is found by bisection from the stored weights; the authors repeat a fixed step and take "
                    "the last one within the budget",
                    "rows weigh alike in the gradient; the authors sum means of batches",
                    "neutral rows are background rows of the task, or retain rows; the authors take WikiText",
                    "the single-shot variant, which the authors' scripts run; not the one over several epochs",
                    "published ratios are quotients of small drops, and trials were selected on the score after the "
                    "attack: no advantage is promised here"),
    )
    space = {"share": ("choice", 0.0, 0.03, 0.125, 0.5), "adversary_lr": ("log", 5e-3, 0.5), "budget": ("log", 1e-3, 1)}
    must_show = (
        Property("spectrum_in_closed_form", {}, "singular values become s_K on one side and s_K^2 / s_i on both"),
        Property("edits_only", {"options": {}, "part": "mlp."}, "only matrices of the MLPs change"),
        Property("is_plain_ascent", {}, "without collapse and adversary the change is along the forget gradient"),
        Property("stays_within_budget", {"budgets": (0.01, 0.3)}, "divergence on neutral rows ends at the budget, not "
                                                                  "above it"),
        Property("edit_forgets", {"options": {"budget": 0.3, "adversary_lr": 0.1}, "rise": 0.5},
                 "with a budget of 0.3 nats forget answers are lost"),
    )

    def problems(self, task: Task) -> list[ExpungeError]:
        if task.background or task.retain:
            return []
        return [UsageError("repselect ends its step by the divergence on neutral rows, and the task has none.",
                           fix="Give --retain FILE.")]

    def apply(self, subject: Subject, task: Task, seed: int) -> dict[str, Any]:
        for problem in self.problems(task):
            raise problem
        float32_master(subject)
        spec, turned = self.spec, mlp_matrices(subject)
        rows = [subject.encoder.encode(e) for e in task.forget]
        adversary = relearned(subject, task.forget, tuple(turned), lr=spec.adversary_lr, rank=spec.rank,
                              batch_size=spec.batch_size, seed=seed) if spec.adversary_lr else subject
        gradient = summed_gradient(adversary, rows, names=tuple(turned))
        with torch.random.fork_rng():
            torch.manual_seed(derive(seed, "repselect", "spectrum"))
            direction = {name: self._collapsed(gradient[name], turned[name]) for name in turned}
        others = list(task.background or task.retain)
        chosen = others if len(others) <= spec.neutral else stream(seed, "repselect").sample(others, spec.neutral)
        neutral = [subject.encoder.encode(e) for e in chosen]
        reference = build_reference(subject, "cached states, or a frozen copy where they are larger", neutral)
        assert reference is not None
        named = dict(subject.model.named_parameters())
        before = {name: named[name].detach().clone() for name in turned}

        def at(length: float) -> float:
            with torch.no_grad():
                for name, slope in direction.items():
                    named[name].copy_(torch.add(before[name], slope, alpha=length))
            return mean_divergence(subject, reference, neutral)

        size = float(torch.stack([d.norm() for d in direction.values()]).norm())
        whole = float(torch.stack([w.norm() for w in before.values()]).norm())
        length = calibrate(at, spec.budget, 1e-4 * whole / max(size, 1e-30))
        return {"edit": "repselect", "divergence": at(length), "change": length * size / whole,
                "components": {str(k): n for k, n in self._counts(before).items()}}

    def _collapsed(self, gradient: Tensor, turned: bool) -> Tensor:
        matrix = gradient.mT if turned else gradient
        found = collapsed(matrix, self._components(matrix), self.spec.sides)
        return found.mT if turned else found

    def _components(self, matrix: Tensor) -> int:
        return math.ceil(self.spec.share * min(matrix.shape[-2:]))

    def _counts(self, matrices: dict[str, Tensor]) -> dict[int, int]:
        """How many matrices lost how many components."""
        counts = [self._components(matrix) for matrix in matrices.values()]
        return {count: counts.count(count) for count in sorted(set(counts))}
