"""Complete training state on disk, written beside and renamed, so a kill leaves the one before."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from expunge.records.base import read_json, write_json


@dataclass
class Progress:
    """How far a loop is and what it has seen. Mutable on purpose; saved whole."""

    step: int = 0
    seconds: float = 0.0
    tokens: int = 0
    start: dict[str, float] = field(default_factory=dict)
    best: dict[str, float] | None = None
    alarms: list[str] = field(default_factory=list)
    reason: str = "step budget used"
    stopped: bool = False


@dataclass
class FitState:
    """What one call of `fit` hands to the next, and what a checkpoint holds beside the weights."""

    progress: Progress = field(default_factory=Progress)
    optimizer: dict[str, Any] = field(default_factory=dict)
    """`state_dict` of the optimizer; without "param_groups" those of the new optimizer stay."""
    method: dict[str, Any] = field(default_factory=dict)
    """What the method remembers, as its `state` gives it."""
    best: dict[str, Tensor] | None = None
    """Weights of the best reading so far, where the rule keeps them."""
    watched: list[Tensor] = field(default_factory=list)
    """A few weights at the start (see `Movement`); a checkpoint leaves them out."""


class Checkpoints:
    """Newest state of one loop in `folder`, with the weights.

    Random streams need no saving: every step derives its own from the seed and its number.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def latest(self) -> Path | None:
        """The newest complete checkpoint, or None."""
        complete = [p for p in self.folder.glob("step-*") if p.suffix != ".new"]
        return max(complete, key=lambda p: int(p.name.split("-")[1]), default=None)

    def save(self, parameters: Mapping[str, nn.Parameter], state: FitState) -> None:
        """Write step-N.new, rename it to step-N, then drop the older ones."""
        target = self.folder / f"step-{state.progress.step}"
        fresh = target.with_name(target.name + ".new")
        if target.exists():  # the same step: replacing it would leave a moment without any checkpoint
            return
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(parents=True)
        save_file({n: p.detach().cpu().contiguous() for n, p in parameters.items()}, fresh / "weights.safetensors")
        if state.best is not None:
            save_file(dict(state.best), fresh / "best.safetensors")
        torch.save({"optimizer": state.optimizer, "method": state.method}, fresh / "state.pt")
        write_json(fresh / "progress.json", vars(state.progress))
        os.replace(fresh, target)
        for old in self.folder.glob("step-*"):
            if old != target:
                shutil.rmtree(old, ignore_errors=True)

    def restore(self, parameters: Mapping[str, nn.Parameter]) -> FitState | None:
        """Put the weights back and return the rest; None without a checkpoint."""
        folder = self.latest()
        if folder is None:
            return None
        put(parameters, load_file(folder / "weights.safetensors"))
        best = folder / "best.safetensors"
        return FitState(Progress(**read_json(folder / "progress.json")),
                        **torch.load(folder / "state.pt", weights_only=True),
                        best=load_file(best) if best.exists() else None)


@torch.no_grad()
def put(parameters: Mapping[str, nn.Parameter], values: Mapping[str, Tensor]) -> None:
    """Copy values into parameters of the same names."""
    for name, parameter in parameters.items():
        parameter.copy_(values[name])


def take(parameters: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    """A CPU copy of the parameters."""
    return {n: p.detach().cpu().clone().contiguous() for n, p in parameters.items()}
