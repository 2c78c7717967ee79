"""OFMU: an inner loop of forgetting away from the retain gradient, and an outer step of retaining."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from expunge import plugin
from expunge.methods._lib.hessian import hessian_product
from expunge.methods.base import Combine
from expunge.models.scope import Scope
from expunge.plugin import Card, Property
from expunge.training.gradients import Gradient, inner

Both = Callable[[], tuple[Gradient, Gradient]]


def towards(forget: Gradient, retain: Gradient) -> list[Tensor]:
    """The gradient of cos(forget, retain) by the forget gradient: r / (|f| |r|) - cos f / |f|^2; zero where one is."""
    square, size = inner(forget, forget), (inner(forget, forget) * inner(retain, retain)) ** 0.5
    if size == 0:
        return [torch.zeros_like(f) for f in forget]
    cosine = inner(forget, retain) / size
    return [r / size - cosine / square * f for f, r in zip(forget, retain, strict=True)]


class OFMU(Combine):
    """Descend on the forget loss while turning its gradient to the retain gradient; then step on the retain loss."""

    class Spec(plugin.Spec):
        steps: int = Field(5, ge=1, description="Steps of the inner loop, on the rows of the step.")
        inner_lr: float = Field(0.01, gt=0, description="Rate of the inner loop, plain descent.")
        inner_clip: float | None = Field(1.0, gt=0, description="Maximum norm of an inner gradient; None: no limit.")
        beta: float = Field(0.1, ge=0, description="Weight of the cosine between the two gradients; 0 leaves it out.")
        squared: bool = Field(False, description="Whether to lower the squared cosine instead of raising the cosine.")
        exact: bool = Field(True, description="Whether the retain gradient turns too, or is held fixed.")
        rho: float = Field(0.01, ge=0, description="Weight of the squared norm of the inner gradient in the outer "
                                                   "step, at its last increase; 0 leaves it out.")
        rising: int = Field(100, ge=1, description="Steps over which rho rises from 0 to its value.")
        difference: float = Field(1e-3, gt=0, description="Distance in L2 norm to each side at which gradients are "
                                                          "compared, for products with the Hessian.")

    card = Card(
        name="ofmu", kind="combine",
        summary="an inner loop of forgetting that spares the retain gradient, then an outer step of retaining",
        paper="OFMU: Optimization-Driven Framework for Machine Unlearning, ICLR 2026 (arXiv 2509.22483)",
        formula="Phi = -L_f + beta cos(g_f, g_r); T times u <- u + eta grad Phi(u); then the optimizer's step from u "
                "along grad L_r(u) + 2 rho H_Phi(u) grad Phi(u)",
        defaults="5 of the paper's 5 to 10 inner steps; rates, beta and rho are ours: the paper's are not known here",
        conflicts=frozenset({"forked_adversary"}),
        companions="retain_nll",
        memory="8: the inner gradient and what its Hessian products need; a step costs 5 T + 16 pairs of gradients",
        deviations=("written from notes on the paper; no code is public, and nothing was compared",
                    "L_f is the loss of the recipe's objective, whose descent forgets: with ga it is the paper's",
                    "the paper penalises the cosine of the gradient of the prediction loss with the retain gradient, "
                    "which is minus that of ga: so the cosine is raised here, and with squared its square lowered",
                    "exact=False holds the retain gradient fixed in the gradient of the cosine (first order); on small "
                    "models that lowered the cosine that it should raise",
                    "products with the Hessian are central differences of gradients; the copy of forked_adversary "
                    "would learn at each of them",
                    "the outer gradient is taken at the end of the inner loop, and the optimizer's own rule makes the "
                    "step; inner gradients are clipped, and rho rises linearly: the inner problem has no optimum"),
    )
    separate = True
    space = {"steps": ("choice", 1, 5, 10), "inner_lr": ("log", 1e-3, 0.1), "beta": ("log", 0.01, 10.0)}
    must_show = (
        Property("alternates_plainly", {}, "with beta and rho 0 it is T steps of descent on the forget loss, then one "
                                           "step along the retain gradient there"),
        Property("turns_gradients", {}, "after an inner loop the cosine is higher with beta than without, and its "
                                        "square lower with squared"),
        Property("products_are_exact", {}, "products with the Hessian are those of a quadratic, and the outer step "
                                           "has the gradient of the penalty"),
        Property("protects_better_than_alone", {"steps": 10, "options": {"steps": 2, "inner_lr": 0.15, "rho": 0.0}},
                 "in a run the forget loss grows and retain answers lose less"),
    )

    def __init__(self, spec: Any = None, **options: Any) -> None:
        super().__init__(spec, **options)
        self._count = 0
        self._take: Both | None = None
        self._moved: Sequence[Tensor] = ()

    def again(self, scope: Scope, take: Both) -> None:
        self._scope, self._take = scope, take

    def phi(self, take: Both) -> list[Tensor]:
        """The gradient of Phi at the weights as they are."""
        forget, retain = take()
        if self.spec.beta == 0:
            return [-f for f in forget]
        turn = towards(forget, retain)
        size = (inner(forget, forget) * inner(retain, retain)) ** 0.5
        cosine = inner(forget, retain) / size if size > 0 else 0.0
        weight = -2 * self.spec.beta * cosine if self.spec.squared else self.spec.beta
        turned = hessian_product(self._scope, lambda: take()[0], turn, self.spec.difference)
        if self.spec.exact:
            other = hessian_product(self._scope, lambda: take()[1], towards(retain, forget), self.spec.difference)
            turned = [t + o for t, o in zip(turned, other, strict=True)]
        return [weight * t - f for t, f in zip(turned, forget, strict=True)]

    def __call__(self, forget: Gradient, retain: Gradient) -> Gradient:
        spec, scope, take = self.spec, self._scope, self._take
        assert take is not None
        moved = [torch.zeros_like(f) for f in forget]
        for _ in range(spec.steps):
            with scope.shifted(moved):
                up = self.phi(take)
            length = inner(up, up) ** 0.5
            rate = spec.inner_lr * min(1.0, (spec.inner_clip or length) / max(length, 1e-30))
            moved = [m + rate * u for m, u in zip(moved, up, strict=True)]
        rho = spec.rho * min(self._count / spec.rising, 1.0)
        with scope.shifted(moved):
            outer = list(take()[1])
            if rho > 0:
                pull = hessian_product(scope, lambda: self.phi(take), self.phi(take), spec.difference)
                outer = [o + 2 * rho * p for o, p in zip(outer, pull, strict=True)]
        self._moved, self._count = moved, self._count + 1
        return outer

    def around_step(self, scope: Scope, optimizer: torch.optim.Optimizer) -> AbstractContextManager[None]:
        return self._from_inner(scope)

    @contextmanager
    def _from_inner(self, scope: Scope) -> Iterator[None]:
        """The optimizer's step starts where the inner loop ended."""
        with torch.no_grad():
            for parameter, part in zip(scope.parameters.values(), self._moved, strict=True):
                parameter.add_(part)
        yield

    def figures(self) -> dict[str, float]:
        return {"inner_move": inner(self._moved, self._moved) ** 0.5}

    def state(self) -> dict[str, Any]:
        return {"count": self._count}

    def restore(self, state: Mapping[str, Any]) -> None:
        self._count = int(state["count"])
