"""A value that is not finite never reaches the weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from expunge.errors import NonFiniteError
from expunge.methods.stage import StageMethod
from expunge.models.scope import Scope
from expunge.testing.support import fresh, train, weights
from expunge.training.step import Role, Step, WeightedTerm

BAD_STEP = 4


class PoisonedGradient(torch.autograd.Function):
    """The identity, with a NaN on the way back."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad * float("nan")


def poison(spoil: Callable[[Tensor], Tensor], name: str) -> Callable[[Scope, StageMethod], None]:
    """Spoil the term `name` from step `BAD_STEP` on."""

    def prepare(scope: Scope, method: StageMethod) -> None:
        real, asked = method.terms, list[Role | None]()

        def terms(step: Step, only: Role | None = None) -> list[WeightedTerm]:
            if only != "retain":  # which is the second turn of a step
                asked.append(only)
            late = len(asked) >= BAD_STEP
            return [replace(t, term=replace(t.term, sum_B=spoil(t.term.sum_B))) if late and t.name == name else t
                    for t in real(step, only)]

        method.terms = terms  # type: ignore[method-assign]

    return prepare


@pytest.mark.parametrize(("spoil", "name", "said"), [
    (lambda sum_B: sum_B * float("nan"), "npo", "the term npo"),
    (lambda sum_B: sum_B + float("inf"), "retain_nll", "the term retain_nll"),
    (PoisonedGradient.apply, "retain_nll", "the gradient"),
], ids=["nan value", "infinite value", "nan gradient"])
def test_refuses_to_step(spoil: Callable[[Tensor], Tensor], name: str, said: str, tmp_path: Path) -> None:
    """The error names step and term; on disk and in memory are the weights of the step before."""
    subject, last = fresh(), {}

    def note(line: dict[str, Any]) -> None:
        last.update({"step": line["step"], "weights": weights(subject)})

    with pytest.raises(NonFiniteError) as raised:
        train("npo + retain_nll + adamw(lr=1e-3, warmup=0)", subject=subject, steps=8, folder=tmp_path,
              prepare=poison(spoil, name), on_step=note)
    assert f"Step {BAD_STEP}" in raised.value.what and said in raised.value.what
    assert raised.value.exit_code == 3
    assert last["step"] == BAD_STEP - 1
    stored = load_file(tmp_path / "checkpoint" / f"step-{BAD_STEP - 1}" / "weights.safetensors")
    for n, value in weights(subject).items():
        assert torch.equal(value, last["weights"][n]) and torch.equal(stored[n], value)
        assert bool(value.isfinite().all())
    assert len((tmp_path / "steps.jsonl").read_text().splitlines()) == BAD_STEP - 1
    assert not subject.model.training


def test_clipping_bounds_the_step() -> None:
    """The gradient that reaches the optimizer is at most as long as asked; the log has the length before."""
    norms: list[float] = []

    def watch(scope: Scope, method: StageMethod) -> None:
        real = method.optimizer

        def optimizer(scope: Scope) -> torch.optim.Optimizer:
            made = real(scope)
            step = made.step

            def measured(*args: Any, **options: Any) -> Any:
                norms.append(float(torch.stack([p.grad.norm() for p in scope.parameters.values()
                                                if p.grad is not None]).norm()))
                return step(*args, **options)

            made.step = measured  # type: ignore[method-assign]
            return made

        method.optimizer = optimizer  # type: ignore[method-assign]

    run = train("ga + adamw(lr=1e-3, warmup=0, clip=0.5)", steps=5, prepare=watch)
    longest = max(line["grad_norm"] for line in run.lines)
    assert longest > 0.5 and max(norms) == pytest.approx(0.5, rel=1e-3)
    norms.clear()
    run = train("ga + adamw(lr=1e-3, warmup=0, clip=None)", steps=5, prepare=watch)
    assert norms == pytest.approx([line["grad_norm"] for line in run.lines], rel=1e-5)
