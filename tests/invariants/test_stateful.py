"""Combiners and optimizers that remember something: resumed is uninterrupted; and a run is given its own."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from expunge.methods.stage import StageMethod
from expunge.models.scope import Scope
from expunge.testing.support import Trained, fresh, stage_of, train

from .test_resume import Stop, fail, goes_on, same

STEPS = 7
RECIPES = [
    "npo + pdu(rho=1, step=2, epsilon=0.01, warmup=1)",
    "npo + gu(history=3) + adamw(lr=2e-3, weight_decay=0.1)",
    "npo + gu(form='basis', history=2)",
    "npo + gu(history=2) + lora(rank=2) + sign_adam(lr=1e-3)",
    "npo + retain_nll + hybrid(lr=1e-3, period=2, queries=1) + layers(index=1)",
    "npo + retain_nll + sign_adam(lr=1e-3, bits=3)",
    "npo + retain_nll + zeroth_order(lr=1e-3, queries=1) + layers(index=1)",
    "npo + retain_kl + smooth(sigma=1e-3, draws=2) + sam",
    "dpo + retain_nll + lat(steps=2) + saf(warmup=0)",
]


def run(recipe: str, folder: Path, on_step: Callable[[dict[str, Any]], None] | None = None) -> Trained:
    return train(recipe, subject=fresh(), steps=STEPS, folder=folder, on_step=on_step, seed=3, batch_size=6,
                 loop={"checkpoint_every": 2})


@pytest.mark.parametrize("recipe", RECIPES)
def test_resumed_is_uninterrupted(recipe: str, tmp_path: Path) -> None:
    """From the checkpoint before the failure, bit for bit, log and figures included."""
    goes_on(partial(run, recipe), tmp_path)


@pytest.mark.parametrize("recipe", RECIPES[:3])
def test_the_state_matters(recipe: str, tmp_path: Path) -> None:
    """A run that forgets what its combiner knew ends elsewhere; else the test above would prove nothing."""

    def forgetful(scope: Scope, method: StageMethod) -> None:
        method.restore = lambda state: None  # type: ignore[method-assign]

    whole = run(recipe, tmp_path / "whole")
    with pytest.raises(Stop):
        run(recipe, tmp_path / "cut", fail)
    cut = train(recipe, subject=fresh(), steps=STEPS, folder=tmp_path / "cut", seed=3, batch_size=6,
                loop={"checkpoint_every": 2}, prepare=forgetful)
    with pytest.raises(AssertionError):
        same(cut, whole)


def test_a_stage_run_twice_starts_anew() -> None:
    """The plug-in in a stage keeps no state of the runs it was part of."""
    stage = stage_of("npo + pdu(rho=1, step=2, epsilon=0.01, warmup=0)")
    ends = [train(stage, steps=3).lines[-1] for _ in range(2)]
    assert ends[0]["rho"] == ends[1]["rho"] > 1
    assert stage.combine.figures() == {"rho": 1.0}
