"""Promises of CIR: its loss, and gradients without the directions that tokens share.

Legend: N tokens, O outputs and I inputs of a matrix.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import pytest
import torch

from expunge.methods._lib.selective import mlp_matrices
from expunge.methods.base import Objective, Perturb
from expunge.methods.perturb.project_shared import _inner_tokens
from expunge.models.language import CausalLM
from expunge.models.scope import Scope
from expunge.testing.families import small_model
from expunge.training.gradients import Gradient, Tamper
from expunge.training.step import Step

from ..support import batch_of, fresh, moved, small_task
from .base import check


@check
def stops_at_orthogonal(plugin: type[Objective]) -> None:
    """1 where nothing changed, falling to 0 at a right angle, 0 without a pull beyond."""
    agreement = sys.modules[plugin.__module__].agreement
    before = torch.randn(4, 5, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for row in before:
        length = float(row[0].norm())
        assert float(agreement(row[:1], row[:1], length)) == pytest.approx(1)
        away = (-row[:1]).requires_grad_(True)
        value = agreement(away, row[:1], length)
        assert float(value.detach()) == 0 and not torch.autograd.grad(value.sum(), away)[0].any()


def asked_for(plugin: Perturb, subject: CausalLM,
              steps: Sequence[int] = (0,)) -> tuple[Scope, list[Gradient], Gradient]:
    """Its gradients in these steps, of a loss on MLP outputs at the tokens that count, and that of
    backpropagation."""
    model = subject.model
    scope = Scope(subject, tuple(mlp_matrices(subject)))
    batch = batch_of(subject, small_task().forget[:4])
    parameters = list(scope.parameters.values())

    def plain(tamper: Tamper | None = None) -> Gradient:
        step = Step(subject, {"forget": batch})
        if tamper is not None:
            tamper(step)
        hidden_BTD = subject.hidden(batch, len(subject.blocks) - 1)
        # Only from tokens that are counted, so that others have no gradient in the last block.
        loss = (hidden_BTD.float() ** 3)[_inner_tokens(step)].sum()
        grads = torch.autograd.grad(loss, parameters, allow_unused=True)
        return [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, grads, strict=True)]

    model.eval()
    found = [plugin.gradient(subject, scope, plain, step=i, total=9, seed=0) for i in steps]
    return scope, found, plain()


@check
def rebuilds_gradients(plugin: type[Perturb]) -> None:
    """Matrices of the last block, whose other tokens carry no gradient: as of backpropagation, in both layouts, and of
    an MLP beside experts, which is given positions laid flat."""
    texts = small_task().texts()
    for subject in (moved(), small_model("gpt2", texts), small_model("qwen2_moe", texts)):
        subject = fresh(subject)
        scope, (found,), expected = asked_for(plugin(inputs=0, gradients=0, normalise=False), subject)
        last = f".{len(subject.blocks) - 1}."
        pairs = [(f, e) for name, f, e in zip(scope.names, found, expected, strict=True) if last in name]
        assert len(pairs) > 1 and all(float(e.norm()) > 0 for _, e in pairs)
        for mine, theirs in pairs:
            torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-4 * float(theirs.abs().max()))


@check
def takes_out_shared(plugin: type[Perturb]) -> None:
    """The first step only looks; then a gradient has nothing along the mean and the components at either end."""
    subject = fresh(moved())
    made = plugin(inputs=3, gradients=2, every=1)
    scope, (looked, found), _ = asked_for(made, subject, (0, 1))
    assert not any(g.any() for g in looked)
    assert float(torch.cat([g.flatten() for g in found]).norm()) == pytest.approx(1, rel=1e-4)
    for name, gradient_OI in zip(scope.names, found, strict=True):
        inputs_IK, outputs_OK = made._bases[name]  # type: ignore[attr-defined]
        assert inputs_IK.shape[1] == 3 and outputs_OK.shape[1] == 2
        for basis in (inputs_IK, outputs_OK):
            torch.testing.assert_close(basis.T @ basis, torch.eye(basis.shape[1], dtype=basis.dtype))
        for left in (gradient_OI.double() @ inputs_IK, outputs_OK.T @ gradient_OI.double()):
            assert float(left.norm()) < 1e-4 * float(gradient_OI.norm()) + 1e-9, name
    counts = {name: inputs.count for name, (inputs, _) in made._seen.items()}  # type: ignore[attr-defined]
    again = plugin(inputs=3, gradients=2, every=1)
    asked_for(again, subject, (0, 1, 1))
    assert {name: inputs.count for name, (inputs, _) in again._seen.items()} == {  # type: ignore[attr-defined]
        name: 2 * count for name, count in counts.items()}, "directions are found once a step"
