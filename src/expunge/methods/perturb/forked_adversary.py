"""A slow adversary: the forget gradient at a copy of the weights that relearns, and starts anew every few steps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from expunge import plugin
from expunge.methods._lib.own_gradients import mean_gradient, with_batches
from expunge.methods.base import Perturb
from expunge.methods.perturb.relearn_inside import restored
from expunge.models.answers import Answers
from expunge.models.scope import Scope
from expunge.models.subject import Subject
from expunge.plugin import Card, Property
from expunge.training.gradients import Gradient, Oracle


class ForkedAdversary(Perturb):
    """Take the forget gradient where an adversary stands who relearns one step for every step of forgetting."""

    class Spec(plugin.Spec):
        every: int = Field(32, ge=1, description="Steps after which the adversary starts anew from the weights.")
        lr: float = Field(1e-3, ge=0, le=1e30, description="Rate of its descent on the forget answers; 0 has no "
                                                           "adversary.")

    card = Card(
        name="forked_adversary", kind="perturb", target="capability",
        summary="forget gradient at a copy that relearns and is forked anew every few steps (MUDMAN)",
        paper="MUDMAN, Robust LLM Unlearning with Disruption Masking and Normalization (arXiv 2506.12484)",
        formula="a <- w every n steps; g = g_f(a), then a <- a - lr grad NLL(forget; a)",
        defaults="a fork every 32 steps, rate 1e-3 (3e-4 to 0.1 and 6 to 42 in the authors' searches on small models)",
        model_needs=frozenset({"logp", "weights"}),
        memory="2: the adversary's copy of what may move, and that of the weights meanwhile",
        deviations=("both gradients are taken at the same weights of the adversary, by two passes; the authors' code "
                    "moves it between two backward passes over one graph",
                    "with a rate of 0 the gradient is that at the weights themselves; the authors' adversary would "
                    "stand still between two forks"),
    )
    backpropagates = True
    reads: ClassVar[tuple[str, ...]] = ("forget",)
    space = {"every": ("choice", 8, 16, 32), "lr": ("log", 3e-4, 0.1)}
    must_show = (
        Property("does_nothing", {"options": {"lr": 0.0}}, "rate 0 is the base method, bit for bit"),
        Property("restores_weights", {}, "weights are restored bit for bit, also after an exception"),
        Property("forks_and_descends", {}, "one step of descent for every step, and the weights again after a fork"),
    )

    def __init__(self, spec: Any = None, **options: Any) -> None:
        super().__init__(spec, **options)
        self._held: list[Tensor] = []

    @property
    def idle(self) -> bool:
        return bool(self.spec.lr == 0)

    def state(self) -> dict[str, Any]:
        return {"held": self._held} if self._held else {}

    def restore(self, state: Mapping[str, Any]) -> None:
        self._held = list(state.get("held", []))

    def gradient(self, subject: Subject, scope: Scope, plain: Oracle, *, step: int, total: int, seed: int) -> Gradient:
        parameters = list(scope.parameters.values())
        if step % self.spec.every == 0 or not self._held:
            self._held = [p.detach().clone() for p in parameters]

        def loss(answers: Answers) -> Tensor:
            return -answers.logp_N

        with restored(scope):
            with torch.no_grad():
                for parameter, held in zip(parameters, self._held, strict=True):
                    parameter.copy_(held)
            gradient, batches = with_batches(plain, "forget")
            slope = mean_gradient(subject, scope, batches, loss)
        self._held = [h - self.spec.lr * s for h, s in zip(self._held, slope, strict=True)]
        self.spent = sum(batch.count("positions") for batch in batches)
        return list(gradient)
