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
    """Train the parameters of `scope` in place and return a state from which another call can continue.

    Args:
        state: state of an earlier call. Its progress sets the step to continue at; with an optimizer state only, a new
            loop starts from step 0 with the earlier moments. It is not changed.
        folder: folder of log and checkpoints, from which a killed run resumes; nothing is kept if left out.
        reference: the original's outputs, if a term uses them.
        monitor: read every `loop.eval_every` steps, for the stopping rule and the choice of the best step.

    Raises:
        NonFiniteError: a term or gradient was NaN or infinite; the last finite state is in the folder, if one is given.
        InterruptedRun: Ctrl-C; the state after the last whole step is in the folder, likewise.
    """
    with ExitStack() as stack:
        # The loop seeds every step; afterwards the global random generators are restored.
        stack.enter_context(torch.random.fork_rng([subject.device] if subject.device.type == "cuda" else []))
        if folder is None:
            folder, loop = Path(stack.enter_context(tempfile.TemporaryDirectory())), replace(loop, checkpoint_every=0)
        return run_loop(method, subject, scope, schedule, loop, folder, copy.deepcopy(state) or FitState(),
                        reference=reference, monitor=monitor, on_step=on_step)
