"""The way into the loop. Unlearning, fine-tuning, assistants, shards and relearning attacks all call `fit`."""

from __future__ import annotations

import copy
import tempfile
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import torch

from expunge.models.reference import Reference
from expunge.models.scope import Scope
from expunge.models.subject import Subject
from expunge.training.checkpoint import FitState
from expunge.training.loop import Loop, Monitored, OnStep, run_loop
from expunge.training.method import Method
from expunge.training.schedule import Schedule


def fit(method: Method, subject: Subject, scope: Scope, schedule: Schedule, loop: Loop,
        state: FitState | None = None, *, folder: Path | None = None, reference: Reference | None = None,
        monitor: Monitored | None = None, on_step: OnStep | None = None) -> FitState:
    """Train what `scope` lets move, in place, and return what another call can go on from.

    Args:
        state: that of an earlier call. Its progress says at which step to go on; with an optimizer state alone,
            a new loop starts from step 0 with the moments of the one before. It is not changed.
        folder: where log and checkpoints are kept, so that a killed run goes on; nothing is kept when left out.
        reference: the original's outputs, when some term asks for them.
        monitor: read every `loop.eval_every` steps, for the stopping rule and the choice of the best step.

    Raises:
        NonFiniteError: a term or gradient was NaN or infinite; the last finite state is in the folder.
        InterruptedRun: Ctrl-C; the state after the last whole step is in the folder.
    """
    with ExitStack() as stack:
        # The loop seeds every step; code that draws numbers afterwards finds the generators as they were.
        stack.enter_context(torch.random.fork_rng([subject.device] if subject.device.type == "cuda" else []))
        if folder is None:
            folder, loop = Path(stack.enter_context(tempfile.TemporaryDirectory())), replace(loop, checkpoint_every=0)
        return run_loop(method, subject, scope, schedule, loop, folder, copy.deepcopy(state) or FitState(),
                        reference=reference, monitor=monitor, on_step=on_step)
