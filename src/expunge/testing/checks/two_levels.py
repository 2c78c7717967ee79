"""Promises of a combiner with an inner loop."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from expunge.methods.base import Combine
from expunge.models.scope import Scope

from ..support import cosine, fresh, gradient, memoriser, moved
from .base import check


class _Quadratic:
    """Two losses 1/2 (w - a)^T A (w - a) of one vector, and a scope that can be moved."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        halves = torch.randn(2, 6, 6, generator=generator, dtype=torch.float64)
        self.matrices = halves @ halves.mT / 6 + torch.eye(6).double()
        self.goals = torch.randn(2, 6, generator=generator, dtype=torch.float64)
        self.parameter = torch.nn.Parameter(torch.zeros(6, dtype=torch.float64))
        subject: Any = SimpleNamespace(model=SimpleNamespace(named_parameters=lambda: [("w", self.parameter)]))
        self.scope = Scope(subject, ("w",))

    def slopes(self, at: Tensor) -> list[Tensor]:
        return [m @ (at - g) for m, g in zip(self.matrices, self.goals, strict=True)]

    def take(self) -> tuple[list[Tensor], list[Tensor]]:
        forget, retain = self.slopes(self.parameter.detach())
        return [forget], [retain]


@check
def alternates_plainly(plugin: type[Combine]) -> None:
    """Three steps of descent on one quadratic by hand, then the gradient of the other there, where the step starts."""
    bed = _Quadratic()
    made = plugin(steps=3, inner_lr=0.1, inner_clip=None, beta=0.0, rho=0.0)
    made.again(bed.scope, bed.take)
    (outer,) = made(*bed.take())
    at = torch.zeros(6).double()
    for _ in range(3):
        at = at - 0.1 * bed.slopes(at)[0]
    torch.testing.assert_close(outer, bed.slopes(at)[1])
    assert float(bed.parameter.detach().norm()) == 0, "the weights were not put back"
    optimizer = torch.optim.SGD([bed.parameter], lr=0.01)
    with made.around_step(bed.scope, optimizer):
        bed.parameter.grad = outer
        optimizer.step()
    torch.testing.assert_close(bed.parameter.detach(), at - 0.01 * bed.slopes(at)[1])
    short = plugin(steps=1, inner_lr=0.1, inner_clip=1e-3, beta=0.0, rho=0.0)
    short.again(bed.scope, bed.take)
    short(*bed.take())
    assert short.figures()["inner_move"] == pytest.approx(1e-4)


@check
def products_are_exact(plugin: type[Combine]) -> None:
    """The outer gradient beside autograd of rho ||grad Phi||^2 through the quadratics, whole and to first order."""
    bed = _Quadratic()
    for beta, exact in ((0.0, True), (0.5, False), (0.5, True)):
        made = plugin(steps=1, inner_lr=0.1, inner_clip=None, beta=beta, rho=0.3, rising=1, exact=exact,
                      difference=1e-4)
        made.restore({"count": 5})
        made.again(bed.scope, bed.take)
        (outer,) = made(*bed.take())
        with bed.scope.shifted(made._moved):  # type: ignore[attr-defined]
            at = bed.parameter.detach().clone()

        def phi(w: Tensor, beta: float = beta, exact: bool = exact) -> Tensor:
            forget, retain = bed.slopes(w)
            size, dot = forget.norm() * retain.norm(), forget @ retain
            turned = bed.matrices[0] @ (retain - dot / (forget @ forget) * forget) / size
            other = bed.matrices[1] @ (forget - dot / (retain @ retain) * retain) / size
            return beta * (turned + other * exact) - forget

        jacobian = torch.autograd.functional.jacobian(phi, at)
        torch.testing.assert_close(outer, bed.slopes(at)[1] + 0.6 * jacobian @ phi(at), rtol=1e-3, atol=1e-4)


@check
def turns_gradients(plugin: type[Combine]) -> None:
    """On a model that has moved, after one inner loop of the same length."""
    found: dict[tuple[float, bool], float] = {}
    for beta, squared in ((0.0, False), (20.0, False), (20.0, True)):
        subject = fresh(moved(8))
        scope = Scope(subject, tuple(n for n, _ in subject.model.named_parameters()))

        def take(subject: Any = subject) -> Any:
            both = gradient("ga + retain_nll", subject, original=memoriser(), separate=True)
            return list(both.forget), list(both.retain)

        made = plugin(steps=3, inner_lr=0.02, beta=beta, squared=squared, rho=0.0)
        made.again(scope, take)
        made(*take())
        with scope.shifted(made._moved):  # type: ignore[attr-defined]
            found[beta, squared] = cosine(*take())
        assert made.figures()["inner_move"] > 0.01
    assert found[20.0, False] > found[0.0, False] + 0.05, found
    assert abs(found[20.0, True]) < abs(found[0.0, False]) - 0.05, found
