"""Primal-dual unlearning: the weight of the retain side is a multiplier that keeps its loss below a bound."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

from pydantic import BaseModel, Field

from expunge import plugin
from expunge.methods.base import Combine
from expunge.plugin import Card, Property
from expunge.training.gradients import Gradient


def ascended(multiplier: float, loss: float, epsilon: float, step: float) -> float:
    """max(0, multiplier + step (loss - epsilon)): rises while the constraint is violated, falls otherwise."""
    updated = multiplier + step * (loss - epsilon)
    return 0.0 if updated < 0 else updated  # not max(): it would turn NaN into 0


class PDU(Combine):
    """Minimise the forget loss subject to retain loss <= epsilon, by dual ascent once per optimizer step."""

    class Spec(plugin.Spec):
        rho: float = Field(100.0, ge=0, description="Initial multiplier.")
        step: float = Field(5.0, ge=0, description="Step size of dual ascent; 0 keeps the multiplier fixed.")
        epsilon: float = Field(0.3, ge=0, description="Bound on the retain side's weighted loss, in nats per token "
                                                      "for retain_nll; choose slightly more than its initial value.")
        warmup: int = Field(5, ge=0, description="Epochs before the multiplier changes.")
        every: Literal["step", "epoch"] = Field(
            "step", description="When it changes: at every optimizer step, on the loss of its rows, or at the end of "
                                "every epoch, on the loss of the epoch's retain rows in evaluation mode.")

    card = Card(
        name="pdu", kind="combine",
        summary="primal-dual: the retain weight rises while the retain loss is above a bound",
        paper="Entesari et al. 2025, Constrained Entropic Unlearning (arXiv 2506.05314, NeurIPS 2025)",
        formula="g = g_f + rho g_r; rho <- max(0, rho + step (R - epsilon))",
        defaults="TOFU: rho 100, step 5, epsilon 0.3, 5 of 10 epochs of warm-up, every step; MUSE: rho 50, step 1, "
                 "3 epochs, epsilon 1.5 (News) or 0.1 (Books). rho is this large for the quadratic forget loss of "
                 "`margin`",
        companions="retain_nll",
        memory="2: both gradients, until they are combined",
        deviations=("the multiplier moves once per optimizer step, on the loss of its whole batch; the authors' code "
                    "moves it with every micro-batch",
                    "once per epoch, the loss is the mean over all tokens; the authors average means of batches"),
    )
    separate = True
    space = {"rho": ("log", 1.0, 100.0), "step": ("log", 0.1, 10.0), "epsilon": ("log", 0.03, 1.5)}
    must_show = (
        Property("weighs_retain", {}, "the update is g_f + rho g_r"),
        Property("multiplier_moves", {}, "rho rises iff R > epsilon, is never negative and comes back to 0 on slack"),
        Property("fixed_multiplier", {}, "step 0 is the loss of two terms with weight rho, run for run"),
        Property("meets_bound", {"recipe": "margin(weight=0.01) + pdu(rho=1, step=0.3, epsilon=0.1, warmup=0)",
                                 "epsilon": 0.1},
                 "at the end R <= 1.05 epsilon and forget predictions are near uniform"),
    )

    def __init__(self, spec: BaseModel | None = None, **options: Any) -> None:
        super().__init__(spec, **options)
        self._rho = self._next = float(self.spec.rho)
        self._epoch = 0

    def ready(self, epoch: int, of_step: Callable[[], float], of_epoch: Callable[[], float]) -> None:
        if self.spec.every == "epoch" and epoch > self._epoch and epoch >= self.spec.warmup:
            self._next = ascended(self._next, of_epoch(), self.spec.epsilon, self.spec.step)
        self._epoch = epoch

    def observe(self, losses: Mapping[str, float], epoch: int) -> None:
        self._rho = self._next
        if self.spec.every == "step" and epoch >= self.spec.warmup:
            self._next = ascended(self._rho, losses.get("retain", 0.0), self.spec.epsilon, self.spec.step)

    def __call__(self, forget: Gradient, retain: Gradient) -> Gradient:
        return [f + self._rho * r for f, r in zip(forget, retain, strict=True)]

    def figures(self) -> dict[str, float]:
        return {"rho": self._rho}

    def state(self) -> dict[str, Any]:
        return {"rho": self._next, "epoch": self._epoch}

    def restore(self, state: Mapping[str, Any]) -> None:
        self._next, self._epoch = float(state["rho"]), int(state["epoch"])
