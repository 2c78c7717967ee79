"""Gradient penalty: forget where the gradient of the forget loss is short."""

from __future__ import annotations

from pydantic import Field

from expunge import plugin
from expunge.methods._lib.hessian import hessian_product
from expunge.methods.base import Perturb
from expunge.models.scope import Scope
from expunge.models.subject import Subject
from expunge.plugin import Card, Property
from expunge.training.gradients import Gradient, Oracle, inner


class GradientPenalty(Perturb):
    """Add the norm of the forget gradient to the forget loss."""

    class Spec(plugin.Spec):
        weight: float = Field(0.01, ge=0, description="Factor of the norm; 0 adds nothing.")
        difference: float = Field(1e-3, gt=0, description="Distance in L2 norm to each side at which gradients are "
                                                          "compared, for the product with the Hessian.")

    card = Card(
        name="gradient_penalty", kind="perturb",
        summary="add the norm of the forget gradient to the forget loss: minima that are flat resist relearning",
        paper="Fan et al. 2025, Towards LLM Unlearning Resilient to Relearning Attacks, ICML 2025 (arXiv 2502.05374)",
        formula="L_f + lambda ||g_f||, whose gradient is g_f + lambda H_f g_f / ||g_f||",
        defaults="lambda 0.01 as the authors' code writes it; WMDP: NPO beta 0.04, lr 7.5e-6, 125 steps",
        model_needs=frozenset({"weights"}),
        memory="4: the first gradient, two beside it, and a copy of the trainable weights",
        deviations=("the penalty has its gradient here; the authors' code makes a Python number of it, so that their "
                    "baseline is plain NPO, and ignores its weight",
                    "the product with the Hessian is a central difference of gradients"),
    )
    space = {"weight": ("log", 1e-3, 1.0)}
    must_show = (
        Property("does_nothing", {"options": {"weight": 0.0}}, "weight 0 is the base method, bit for bit"),
        Property("restores_weights", {}, "weights are restored bit for bit, also after an exception"),
        Property("penalty_has_its_gradient", {"options": {"weight": 0.3}}, "what is added is the derivative of the "
                                                                           "penalty, as by autograd"),
        Property("flattens", {"options": {"weight": 0.03}, "share": 0.8},
                 "after training its penalty is lower than without it"),
    )

    @property
    def idle(self) -> bool:
        return bool(self.spec.weight == 0)

    def gradient(self, subject: Subject, scope: Scope, plain: Oracle, *, step: int, total: int, seed: int) -> Gradient:
        gradient = plain()
        norm = inner(gradient, gradient) ** 0.5
        if self.spec.weight == 0 or norm == 0:
            return gradient
        turned = hessian_product(scope, plain, gradient, self.spec.difference)
        return [g + self.spec.weight / norm * t for g, t in zip(gradient, turned, strict=True)]
