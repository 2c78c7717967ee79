"""Sharpness-aware minimisation of the forget loss."""

from __future__ import annotations

from pydantic import Field

from expunge import plugin
from expunge.methods.base import Perturb
from expunge.models.scope import Scope
from expunge.models.subject import Subject
from expunge.plugin import Card, Property
from expunge.training.gradients import Gradient, Oracle, inner


class SAM(Perturb):
    """Compute the forget gradient at the worst point nearby, so that relearning is slower."""

    class Spec(plugin.Spec):
        rho: float = Field(0.01, ge=0, description="Distance along the forget gradient, L2 norm over all parameters.")

    card = Card(
        name="sam", kind="perturb",
        summary="forget gradient at the worst point nearby: flat minima resist relearning",
        paper="Fan et al. 2025, Towards LLM Unlearning Resilient to Relearning Attacks, ICML 2025 (arXiv 2502.05374); "
              "Foret et al. 2020 (arXiv 2010.01412)",
        formula="g_f at w + rho g_f(w) / ||g_f(w)||; the retain gradient at w",
        defaults="rho 0.01; with NPO beta 0.1, lr 1e-5, retain weight 1 (MUSE News) or 2.5 (Books); WMDP: NPO beta "
                 "0.015, lr 5e-6, retain weight 2.25, 125 steps",
        model_needs=frozenset({"weights"}),
        memory="2: the first gradient and a copy of the trainable weights",
    )
    space = {"rho": ("log", 1e-3, 0.1)}
    must_show = (
        Property("does_nothing", {"options": {"rho": 0.0}}, "rho 0 is the base method, bit for bit"),
        Property("restores_weights", {}, "weights are restored bit for bit, also after an exception"),
        Property("moves_up_the_gradient", {}, "by rho along the unclipped gradient, within the scope only"),
        Property("flatter_than_plain", {"rho": 0.05}, "at the end the forget loss rises less within the same distance"),
    )

    @property
    def idle(self) -> bool:
        return bool(self.spec.rho == 0)

    def gradient(self, subject: Subject, scope: Scope, plain: Oracle, *, step: int, total: int, seed: int) -> Gradient:
        gradient = plain()
        norm = inner(gradient, gradient) ** 0.5
        if self.spec.rho == 0 or norm == 0:
            return gradient
        with scope.shifted(gradient, self.spec.rho / norm):
            return plain()
