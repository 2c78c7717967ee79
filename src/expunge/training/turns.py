"""Work in turns, such as requests or rounds: all is kept after each, and a run goes on after the last."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from expunge.errors import InterruptedRun
from expunge.training.checkpoint import Checkpoints, FitState, Progress


def in_turns(parameters: Mapping[str, nn.Parameter], count: int, state: dict[str, Any], folder: Path | None,
             take: Callable[[int], None], what: str) -> None:
    """Call `take` with the number of each turn, from 0, and keep parameters and state after each.

    Args:
        parameters: what a turn may change.
        state: what else it changes: plain data and tensors, replaced by what is stored in `folder`.
        folder: None keeps nothing.
        what: what a turn is called, for messages.

    Raises:
        InterruptedRun: Ctrl-C within a turn.
    """
    kept = None if folder is None else Checkpoints(folder)
    stored = None if kept is None else kept.restore(parameters)
    if stored is not None:
        state.update(stored.method)
    for number in range(0 if stored is None else stored.progress.step, count):
        try:
            take(number)
        except InterruptedRun:
            raise InterruptedRun(f"Interrupted in {what} {number + 1} of {count}.", *(
                [f"The {what}s before it are not kept."] if kept is None else
                [f"Finished {what}s are kept.", "Run the same command with --resume."])) from None
        if kept is not None:
            kept.save(parameters, FitState(Progress(step=number + 1), method=state))
