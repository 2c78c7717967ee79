"""Curvature regularisation: forget where the forget gradient hardly changes along itself."""

from __future__ import annotations

from pydantic import Field

from expunge import plugin
from expunge.methods._lib.hessian import hessian_product
from expunge.methods.base import Perturb
from expunge.models.scope import Scope
from expunge.models.subject import Subject
from expunge.plugin import Card, Property
from expunge.training.gradients import Gradient, Oracle, inner


class Curvature(Perturb):
    """Add the change of the forget gradient over a short move along itself to the forget loss."""

    class Spec(plugin.Spec):
        weight: float = Field(0.1, ge=0, description="Factor of the change; 0 adds nothing.")
        mu: float = Field(0.01, gt=0, description="Length of the move along the gradient, L2 norm over all parameters.")
        difference: float = Field(1e-3, gt=0, description="Distance in L2 norm to each side at which gradients are "
                                                          "compared, for products with the Hessian.")

    card = Card(
        name="curvature", kind="perturb",
        summary="add the change of the forget gradient along itself to the loss: flat minima resist relearning",
        paper="Fan et al. 2025, Towards LLM Unlearning Resilient to Relearning Attacks, ICML 2025 (arXiv 2502.05374)",
        formula="L_f + lambda ||g_f(w + mu v) - g_f(w)||, v = g_f / ||g_f|| held fixed; gradient g_f + lambda "
                "(H(w + mu v) - H(w)) u, u the change over its norm",
        defaults="mu 0.01; lambda 0.1 is ours: the published 10 had no effect on the weights, and 10 with a gradient "
                 "prevents forgetting. WMDP: NPO beta 0.035, lr 8.5e-6, 125 steps",
        model_needs=frozenset({"weights"}),
        memory="6: the first gradient, four beside it, and two copies of the trainable weights",
        deviations=("the penalty has its gradient here; the authors' code makes a Python number of it and adds the "
                    "forget gradient a second time, so that their baseline is NPO with a doubled forget term",
                    "products with the Hessian are central differences of gradients: a step costs six gradients"),
    )
    space = {"weight": ("log", 0.01, 3.0)}
    must_show = (
        Property("does_nothing", {"options": {"weight": 0.0}}, "weight 0 is the base method, bit for bit"),
        Property("restores_weights", {}, "weights are restored bit for bit, also after an exception"),
        Property("penalty_has_its_gradient", {"options": {"weight": 3.0, "mu": 0.05}},
                 "what is added is the derivative of the penalty, as by autograd"),
        Property("flattens", {"options": {}, "share": 0.95}, "after training its penalty is lower than without it"),
    )

    @property
    def idle(self) -> bool:
        return bool(self.spec.weight == 0)

    def gradient(self, subject: Subject, scope: Scope, plain: Oracle, *, step: int, total: int, seed: int) -> Gradient:
        spec, gradient = self.spec, plain()
        norm = inner(gradient, gradient) ** 0.5
        if spec.weight == 0 or norm == 0:
            return gradient
        with scope.shifted(gradient, spec.mu / norm):
            change = [there - here for there, here in zip(plain(), gradient, strict=True)]
            size = inner(change, change) ** 0.5
            if size == 0:
                return gradient
            there = hessian_product(scope, plain, change, spec.difference)
        here = hessian_product(scope, plain, change, spec.difference)
        return [g + spec.weight / size * (t - h) for g, t, h in zip(gradient, there, here, strict=True)]
