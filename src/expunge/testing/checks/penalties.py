"""Promises of perturbations that add a penalty on the forget gradient itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from expunge.methods.base import Perturb
from expunge.models.language import CausalLM
from expunge.models.scope import Scope
from expunge.training.gradients import inner

from ..support import batch_of, distance, flat, fresh, gradient, memoriser, moved, small_task, trained
from .base import check, term
from .perturbations import ALONE, asked

Slopes = Callable[[list[Tensor]], list[Tensor]]


def _penalty(plugin: Perturb, slopes: Slopes, at: list[Tensor]) -> Tensor:
    """The penalty at a point, without its weight: ||g||, or ||g(w + mu v) - g(w)|| with v held fixed."""
    here = slopes(at)
    if not hasattr(plugin.spec, "mu"):
        return torch.cat([h.flatten() for h in here]).norm()
    whole = flat([h.detach() for h in here]).norm()
    there = slopes([w + plugin.spec.mu / whole * h.detach() for w, h in zip(at, here, strict=True)])
    return torch.cat([(t - h).flatten() for t, h in zip(there, here, strict=True)]).norm()


@check
def penalty_has_its_gradient(plugin: type[Perturb], options: dict[str, Any]) -> None:
    """What is added is lambda times the gradient that two backward passes of autograd give, on a small model."""
    made, subject = plugin(**options), fresh(moved())
    batch = batch_of(subject, small_task().forget[:2])
    scope = Scope(subject, tuple(n for n, _ in subject.model.named_parameters() if "mlp" in n))

    def loss(model: CausalLM) -> Tensor:
        return -model.answers(batch).logp_N.mean()

    def here() -> list[Tensor]:
        return list(torch.autograd.grad(loss(subject), list(scope.parameters.values())))

    def at(values: list[Tensor]) -> list[Tensor]:
        out = torch.func.functional_call(subject.model, dict(zip(scope.names, values, strict=True)), kwargs={
            "input_ids": batch.ids_BT, "attention_mask": batch.attention_BT, "use_cache": False})
        value = torch.nn.functional.cross_entropy(out.logits.flatten(0, 1)[batch.flat_N], batch.target_N)
        return list(torch.autograd.grad(value, values, create_graph=True))

    found, _ = asked(made, scope, here)
    point = [p.detach().clone().requires_grad_(True) for p in scope.parameters.values()]
    with sdpa_kernel(SDPBackend.MATH):
        expected = torch.autograd.grad(made.spec.weight * _penalty(made, at, point), point)
    added = [f - h for f, h in zip(found, here(), strict=True)]
    assert distance(added, expected) < 0.01, distance(added, expected)


@check(trains=True)
def flattens(plugin: type[Perturb], options: dict[str, Any], share: float) -> None:
    """After as many steps the penalty is lower than without it, and about as much is forgotten."""
    ends = []
    for recipe in (f"npo + retain_nll + {term(plugin, options)}", "npo + retain_nll"):
        run = trained(recipe, steps=15, lr=1e-3, watch=15)
        subject = fresh(run.subject)
        scope = Scope(subject, tuple(n for n, _ in subject.model.named_parameters()))

        def here(subject: CausalLM = subject) -> list[Tensor]:
            return list(gradient(ALONE, subject, original=memoriser()).total())

        first = here()
        length = inner(first, first) ** 0.5
        made: Any = plugin(**options)
        if hasattr(made.spec, "mu"):
            with scope.shifted(first, made.spec.mu / length):
                length = float((flat(here()) - flat(first)).norm())
        ends.append((run.readings[-1][0], length))
    assert ends[0][1] < share * ends[1][1] and ends[0][0] > 0.7 * ends[1][0], ends
