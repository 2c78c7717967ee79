"""One small grid for all tests of this folder; nobody writes to it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

import expunge
from expunge.records.grid import Grid

METHODS = ("ga", "npo + retain_nll")
RATES = (1e-3, 3e-3)
OPTIONS: dict[str, Any] = {"methods": METHODS, "lr": RATES, "seeds": 2, "steps": 1, "suite": "forget.probability,"
                           "forget.exact_memorization,retain.probability,mia.loss"}


@pytest.fixture(scope="session")
def task(rows: Any) -> expunge.Task:
    return expunge.load_task(None, forget=rows.forget, retain=rows.retain, holdout=rows.holdout)


@pytest.fixture(scope="session")
def small(model: Path, task: expunge.Task, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Grid]:
    """2 methods x 2 rates x 2 seeds of one step each, beside a retrained model."""
    out = tmp_path_factory.mktemp("grid") / "small"
    retrained = Path(shutil.copytree(model, out.parent / "retrained"))
    weights = load_file(file := retrained / "model.safetensors")  # it must say the forget rows less
    save_file({name: 3 * value for name, value in weights.items()}, file, {"format": "pt"})
    return out, expunge.grid(str(model), task=task, retrained=str(retrained), out=str(out), **OPTIONS)
