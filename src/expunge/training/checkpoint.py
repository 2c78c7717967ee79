"""Complete training state on disk, written to a new folder and renamed, so that a kill leaves the previous one."""

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
    """Progress of a loop. Mutable; saved as a whole."""

    step: int = 0
    seconds: float = 0.0
    tokens: int = 0
    positions: int = 0
    """Positions that gradients were taken at: each of `tokens` as often as the method asks."""
    start: dict[str, float] = field(default_factory=dict)
    best: dict[str, float] | None = None
    alarms: list[str] = field(default_factory=list)
    reason: str = "step budget used"
    stopped: bool = False


@dataclass
class FitState:
    """State passed from one call of `fit` to the next; a checkpoint holds it and the weights."""

    progress: Progress = field(default_factory=Progress)
    optimizer: dict[str, Any] = field(default_factory=dict)
    """`state_dict` of the optimizer; without "param_groups" those of the new optimizer are kept."""
    method: dict[str, Any] = field(default_factory=dict)
    """The method's `state`."""
    best: dict[str, Tensor] | None = None
    """Weights of the best reading so far, if the rule keeps them."""
    watched: list[Tensor] = field(default_factory=list)
    """A few weights at the start (see `Movement`); a checkpoint leaves them out."""


class Checkpoints:
    """The newest state of one loop in `folder`, with the weights.

    Random streams are not saved: every step derives its own from the seed and its number.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def latest(self) -> Path | None:
        """The newest complete checkpoint, or None."""
        complete = [p for p in self.folder.glob("step-*") if p.suffix != ".new"]
        return max(complete, key=lambda p: int(p.name.split("-")[1]), default=None)

    def save(self, parameters: Mapping[str, nn.Parameter], state: FitState) -> None:
        """Write step-N.new, rename it to step-N, then delete older ones."""
        target = self.folder / f"step-{state.progress.step}"
        unfinished = target.with_name(target.name + ".new")
        if target.exists():  # the same step: replacing it would leave no checkpoint for a moment
            return
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        save_file({n: p.detach().cpu().contiguous() for n, p in parameters.items()}, unfinished / "weights.safetensors")
        if state.best is not None:
            save_file(dict(state.best), unfinished / "best.safetensors")
        torch.save({"optimizer": state.optimizer, "method": state.method}, unfinished / "state.pt")
        write_json(unfinished / "progress.json", vars(state.progress))
        os.replace(unfinished, target)
        for old in self.folder.glob("step-*"):
            if old != target:
                shutil.rmtree(old, ignore_errors=True)

    def restore(self, parameters: Mapping[str, nn.Parameter]) -> FitState | None:
        """Restore the weights and return the state; None without a checkpoint."""
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
