"""Relearning in the loop: take the forgetting gradient at weights that an attacker has fine-tuned."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from expunge import plugin
from expunge.data.encoder import Batch
from expunge.methods._lib.own_gradients import mean_gradient, with_batches
from expunge.methods.base import Perturb
from expunge.models.answers import Answers
from expunge.models.scope import Scope
from expunge.models.subject import Subject
from expunge.plugin import Card, Property
from expunge.records.task import Example, Task
from expunge.training.gradients import Gradient, Oracle


@contextmanager
def restored(scope: Scope) -> Iterator[None]:
    """The very bits of the parameters come back on the way out."""
    kept = {name: p.detach().clone() for name, p in scope.parameters.items()}
    try:
        yield
    finally:
        with torch.no_grad():
            for name, parameter in scope.parameters.items():
                parameter.copy_(kept[name])


class RelearnInside(Perturb):
    """First-order tamper resistance: an attack of a few steps within every step, and the gradient along its way."""

    class Spec(plugin.Spec):
        steps: int = Field(4, ge=0, le=1000, description="Steps of the attacker; 0 attacks nobody.")
        every: int = Field(2, ge=1, description="Steps of the attacker between two gradients.")
        lr: float = Field(1e-4, ge=0, le=1e30, description="Learning rate of the attacker (AdamW).")
        rising: float = Field(0.0625, ge=0, le=10, description="The gradient after attack step i counts as "
                                                               "exp(rising * (i - steps)).")
        clean: float = Field(1.0, ge=0, description="Weight of the gradient before the attack.")

    card = Card(
        name="relearn_inside", kind="perturb", target="capability",
        summary="forget gradient at weights that a few steps of relearning have attacked (TAR, first order)",
        paper="Tamirisa et al. 2025, Tamper-Resistant Safeguards for Open-Weight LLMs, ICLR 2025 (arXiv 2408.00761)",
        formula="g = (c g_f(w) + sum_i e^(rising (i - K)) g_f(w_i)) / (c + sum_i e^(rising (i - K))), w_i after i "
                "steps of AdamW on the NLL of other forget rows",
        defaults="64 attack steps, a gradient after every 4th, rising 1/16, attacker rates 2e-6 to 4e-5 (the paper); 4 "
                 "steps at 1e-4 here, since each costs a gradient",
        model_needs=frozenset({"logp", "weights"}),
        memory="4: a copy of what may move, the attacker's two moments and the sum of gradients",
        deviations=("the forgetting gradient is that of the recipe's objective; the authors raise the entropy",
                    "weights of the gradients are normalised, so that `rising` does not change the length of the step",
                    "the gradient before the attack counts too; the authors start from a safeguarded model and leave "
                    "it out (clean=0)",
                    "one kind of attacker on one batch of forget rows, drawn apart from those of the step; the authors "
                    "draw data, rate and schedule of each attacker",
                    "no warm start by random mapping: put such a stage before it"),
    )
    backpropagates = True
    reads: ClassVar[tuple[str, ...]] = ("attacked",)
    space = {"steps": ("choice", 2, 4, 8, 16), "lr": ("log", 1e-5, 1e-3)}
    must_show = (
        Property("does_nothing", {"options": {"steps": 0}}, "no attack is the base method, bit for bit"),
        Property("restores_weights", {"options": {"steps": 2, "every": 1}}, "weights are restored bit for bit, also "
                                                                            "after an exception"),
        Property("averages_attacked", {}, "the weighted mean of the gradients along the attack, which lowers the loss "
                                          "of the attacker's rows"),
        Property("standing_attacker_changes_nothing", {}, "an attacker with rate 0 leaves the base gradient"),
        Property("relearned_less", {"options": {"steps": 4, "every": 2, "lr": 1e-3}, "again": 6},
                 "after relearning on other rows its forget answers stay less likely than without it"),
    )

    @property
    def idle(self) -> bool:
        return bool(self.spec.steps == 0)

    def sides(self, task: Task, rng: random.Random) -> dict[str, Example]:
        return {"attacked": task.forget[rng.randrange(len(task.forget))]}

    def gradient(self, subject: Subject, scope: Scope, plain: Oracle, *, step: int, total: int, seed: int) -> Gradient:
        spec = self.spec
        first, batches = with_batches(plain, "attacked")
        parts, whole = [spec.clean * g for g in first], spec.clean
        with restored(scope):
            attacker = torch.optim.AdamW(list(scope.parameters.values()), lr=spec.lr, weight_decay=0.0)
            for number in range(1, spec.steps + 1):
                self._attack(subject, scope, attacker, batches)
                if number % spec.every == 0 or number == spec.steps:
                    weight = math.exp(spec.rising * (number - spec.steps))
                    whole += weight
                    parts = [a + weight * g for a, g in zip(parts, plain(), strict=True)]
        self.spent = spec.steps * sum(batch.count("positions") for batch in batches)
        return [part / whole for part in parts]

    @staticmethod
    def _attack(subject: Subject, scope: Scope, attacker: torch.optim.Optimizer, batches: Sequence[Batch]) -> None:
        """One step of descent on the answers; masked elements stay."""
        def loss(answers: Answers) -> Tensor:
            return -answers.logp_N

        found = mean_gradient(subject, scope, batches, loss)
        for parameter, part in zip(scope.parameters.values(), found, strict=True):
            parameter.grad = part
        attacker.step()
        attacker.zero_grad(set_to_none=True)
