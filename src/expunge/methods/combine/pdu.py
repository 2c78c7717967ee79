"""Primal-dual unlearning: the weight of the retain side is a multiplier that keeps its loss below a bound."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

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

    card = Card(
        name="pdu", kind="combine",
        summary="primal-dual: the retain weight rises while the retain loss is above a bound",
        paper="Entesari et al. 2025, Constrained Entropic Unlearning (arXiv 2506.05314, NeurIPS 2025)",
        formula="g = g_f + rho g_r; rho <- max(0, rho + step (R - epsilon))",
        defaults="TOFU: rho 100, step 5, epsilon 0.3, 5 of 10 epochs of warm-up; MUSE: rho 50, step 1, 3 epochs, "
                 "epsilon 1.5 (News) or 0.1 (Books). rho is this large for the quadratic forget loss of `margin`",
        companions="retain_nll",
        memory="2: both gradients, until they are combined",
        deviations=("the multiplier moves once per optimizer step, on the loss of its whole batch; the authors' code "
                    "moves it with every micro-batch",
                    "the update once per epoch on the full retain set is left out"),
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

    def observe(self, losses: Mapping[str, float], epoch: int) -> None:
        self._rho = self._next
        if epoch >= self.spec.warmup:
            self._next = ascended(self._rho, losses.get("retain", 0.0), self.spec.epsilon, self.spec.step)

    def __call__(self, forget: Gradient, retain: Gradient) -> Gradient:
        return [f + self._rho * r for f, r in zip(forget, retain, strict=True)]

    def figures(self) -> dict[str, float]:
        return {"rho": self._rho}

    def state(self) -> dict[str, Any]:
        return {"rho": self._next}

    def restore(self, state: Mapping[str, Any]) -> None:
        self._next = float(state["rho"])
