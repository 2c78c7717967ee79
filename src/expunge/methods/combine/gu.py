"""Geometric-disentanglement unlearning: no update may raise the retain loss, to first order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, Field
from torch import Tensor

from expunge import plugin
from expunge.methods._lib.line_search import shortened
from expunge.methods._lib.projection import basis_of, multipliers, off_basis
from expunge.methods.base import Combine
from expunge.models.scope import Scope
from expunge.plugin import Card, Property
from expunge.training.gradients import Gradient, inner

TOLERANCE = 1e-8
"""Violations below this share of the update's norm are float32 noise."""


class GU(Combine):
    """Project the forget update so that it is orthogonal to, or does not ascend along, retain gradients."""

    class Spec(plugin.Spec):
        form: Literal["update", "gradient", "basis"] = Field(
            "update", description="update: project the optimizer's step in its own metric; gradient: project the "
                                  "forget gradient off the retain gradient; basis: off several, per tensor.")
        history: int = Field(8, ge=0, le=32, description="Earlier retain gradients kept as constraints, in addition "
                                                         'to that of the step ("update" and "basis").')
        budget: float | None = Field(None, ge=0, description="Most that the retain loss of a step's rows may rise by "
                                                             "the step, or it is shortened; None: no check.")
        scales: list[float] = Field([1.0, 0.5, 0.25, 0.125], min_length=1, description=(
            "Lengths of the step that are tried under a budget, longest first; if none keeps to it, there is no step."))

    card = Card(
        name="gu", kind="combine",
        summary="geometric disentanglement: updates that do not raise the retain loss, to first order",
        paper="Geometric-Disentanglement Unlearning (arXiv 2511.17100)",
        formula="min 1/2 (u' - u)^T D (u' - u) with <g_i, u'> <= 0; D = sqrt(v) + eps of Adam, g_i retain gradients",
        defaults="history 8, all parameters of the scope (the authors take the last 5 blocks, final norm and head), "
                 "no budget",
        companions="retain_nll",
        memory='4 + history for "update" and "basis", 2 for "gradient"; 2 more with a budget',
        deviations=("nothing was compared with the authors' code, which was not at hand",
                    "the projection is solved as a non-negative least-squares problem, whose solution equals that of "
                    "the authors' search over active sets",
                    "D = 1 if the optimizer has no second moment",
                    "the scales under a budget are ours; the loss is that of the recipe's retain terms",
                    '"gradient" uses the plain inner product, not that of Adam\'s metric',
                    '"basis" drops the oldest direction; it contains the gradient of the step, so '
                    "the tangential part is the whole gradient",
                    "constraints are the gradients of the recipe's own retain terms"),
    )
    separate = True
    space = {"history": ("choice", 0, 4, 8)}
    must_show = (
        Property("orthogonal_to_retain", {}, "after the projection of gradients, |cos| < 1e-5 with every direction"),
        Property("never_raises_retain", {}, "<g_i, update> <= 0 for every constraint, with slackness"),
        Property("nearest_in_metric", {}, "the correction is the smallest in Adam's metric"),
        Property("plain_without_conflict", {}, "bit-identical to the plain step without a conflict or retain gradient"),
        Property("kinder_step", {}, "at equal distance from the start the retain loss rises less than by plain ascent"),
        Property("metric_of_optimizer", {}, "works with optimizers that keep no second moment"),
    )

    def __init__(self, spec: BaseModel | None = None, **options: Any) -> None:
        super().__init__(spec, **options)
        self._constraints: list[list[Tensor]] = []
        self._loss: Callable[[], float] | None = None
        self._scale = 1.0

    def ready(self, epoch: int, of_step: Callable[[], float], of_epoch: Callable[[], float]) -> None:
        self._loss = None if self.spec.budget is None else of_step

    def __call__(self, forget: Gradient, retain: Gradient) -> Gradient:
        square = inner(retain, retain)
        if square > 0 and self.spec.form == "gradient":
            share = inner(forget, retain) / square
            return [f + (1 - share) * r for f, r in zip(forget, retain, strict=True)]
        if square > 0:
            self._constraints.insert(0, [r / square ** 0.5 for r in retain])
        del self._constraints[self.spec.history + 1:]
        if self.spec.form == "update" or not self._constraints:
            return [f + r for f, r in zip(forget, retain, strict=True)]
        return [off_basis(f, basis_of(rows)) + r
                for f, r, *rows in zip(forget, retain, *self._constraints, strict=True)]

    def around_step(self, scope: Scope, optimizer: torch.optim.Optimizer) -> AbstractContextManager[None]:
        projects = self.spec.form == "update" and bool(self._constraints)
        return self._corrected(scope, optimizer, projects) if projects or self._loss else nullcontext()

    @contextmanager
    def _corrected(self, scope: Scope, optimizer: torch.optim.Optimizer, projects: bool) -> Iterator[None]:
        before = {n: p.detach().clone() for n, p in scope.parameters.items()}
        start = self._loss() if self._loss else 0.0
        yield
        if projects:
            self._project(scope, optimizer, before)
        if self._loss:
            self._scale = shortened(scope, before, self.spec.scales, self._loss, start + self.spec.budget)

    def figures(self) -> dict[str, float]:
        return {} if self._loss is None else {"step_scale": self._scale}

    def _project(self, scope: Scope, optimizer: torch.optim.Optimizer, before: Mapping[str, Tensor]) -> None:
        def rows() -> Iterator[tuple[Tensor, Tensor, Tensor | float, list[Tensor]]]:
            """Per parameter: its current value, its value before the step, the metric, and the constraints' parts."""
            for (name, parameter), *parts in zip(scope.parameters.items(), *self._constraints, strict=True):
                yield parameter, before[name], _metric(optimizer, parameter), parts

        count = len(self._constraints)
        violations, gram, square = np.zeros(count), np.zeros((count, count)), 0.0
        with torch.no_grad():
            for parameter, start, metric, parts in rows():
                square += inner([parameter - start], [parameter - start])
                for i, part in enumerate(parts):
                    violations[i] += inner([part], [parameter - start])
                    gram[i, : i + 1] += [inner([part / metric], [other]) for other in parts[: i + 1]]
            if violations.max() <= TOLERANCE * square ** 0.5:
                return
            weights = multipliers(np.tril(gram) + np.tril(gram, -1).T, violations)
            for parameter, _, metric, parts in rows():
                for weight, part in zip(weights, parts, strict=True):
                    parameter.sub_(part / metric, alpha=float(weight))

    def state(self) -> dict[str, Any]:
        return {"constraints": self._constraints}

    def restore(self, state: Mapping[str, Any]) -> None:
        self._constraints = [list(row) for row in state["constraints"]]


def _metric(optimizer: torch.optim.Optimizer, parameter: Tensor) -> Tensor | float:
    """sqrt(v) + eps of the second moment that the step used, else 1."""
    state, group = optimizer.state.get(parameter, {}), optimizer.param_groups[0]
    # A step from an estimate has its own second moment, with bias correction (zeroth_order, hybrid).
    if "mean_sq" in state and group.get("estimated", True):
        return (state["mean_sq"] / (1 - group["betas"][1] ** state["estimates"])).sqrt() + group["eps"]
    return state["exp_avg_sq"].sqrt() + group["eps"] if "exp_avg_sq" in state else 1.0
