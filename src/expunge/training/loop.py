"""The training loop. `run_loop` reads like the algorithm box of a paper."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from expunge import processes
from expunge.errors import InterruptedRun, NonFiniteError
from expunge.models.reference import Reference
from expunge.models.scope import Scope
from expunge.models.subject import Subject, checksum
from expunge.records.base import write_text
from expunge.seeding import derive
from expunge.training.checkpoint import Checkpoints, FitState, put, take
from expunge.training.gradients import BOTH, Movement, apply, gradients, penalised, perturbed, retain_loss
from expunge.training.interrupt import interruptible
from expunge.training.method import Method
from expunge.training.recomputing import recomputing
from expunge.training.schedule import Schedule
from expunge.training.stopping import StopRule, alarms
from expunge.training.zeroth import zeroth

Monitored = Callable[[], dict[str, float]]
"""Returns `forget`, `forget_loss` and `utility` of the current subject."""
OnStep = Callable[[dict[str, Any]], None]
"""Called with the log line of every step."""


@dataclass(frozen=True, kw_only=True)
class Loop:
    """Settings of one loop; the same for training, unlearning and relearning."""

    steps: int
    seed: int = 0
    eval_every: int = 0
    """Steps between monitor readings; 0 reads only at the end."""
    checkpoint_every: int = 50  # 0 keeps none
    gradient_checkpointing: bool = False  # less memory, more time, the same weights
    stop: StopRule = field(default_factory=lambda: StopRule())


def run_loop(method: Method, subject: Subject, scope: Scope, schedule: Schedule, loop: Loop, folder: Path,
             state: FitState, *, reference: Reference | None = None, monitor: Monitored | None = None,
             on_step: OnStep | None = None) -> FitState:
    """Change `subject` in place until the last step or a stopping rule; ends with the kept weights. Called by `fit`.

    Writes folder/steps.jsonl and folder/checkpoint/. Resumes if there is a checkpoint.

    Raises:
        NonFiniteError: a term or gradient was NaN or infinite; the last finite state is on disk if any is kept.
        InterruptedRun: Ctrl-C; the state after the last whole step is on disk, likewise.
    """
    processes.start()
    accelerator = Accelerator()
    processes.check_precision(accelerator.mixed_precision)  # the caller's state may differ from the launcher's
    optimizer = method.optimizer(scope)
    probe = Movement(scope, loop.seed, state.watched)  # before a checkpoint is restored: it measures from the start
    state = _restored(folder, scope, optimizer, method, state)
    state.watched, progress = probe.start, state.progress
    processes.check_same("weights", lambda: f"{progress.step} {checksum(subject.model.state_dict())}")
    checkpoints = Checkpoints(folder / "checkpoint")
    monitor = partial(processes.on_main, monitor) if monitor else None  # all processes use the same reading
    if monitor and not progress.start:
        progress.start = monitor()

    def save() -> None:
        if processes.is_main():
            state.optimizer, state.method = optimizer.state_dict(), method.state()
            checkpoints.save(scope.parameters, state)
        processes.wait()

    path = folder / "steps.jsonl" if processes.is_main() else os.devnull
    with (interruptible() as interrupted, open(path, "a", encoding="utf-8") as log,
          recomputing(subject, loop.gradient_checkpointing)):
        while progress.step < loop.steps and not progress.stopped:
            started, index = time.perf_counter(), progress.step
            torch.manual_seed(derive(loop.seed, "step", index))
            micro = list(schedule.micro_batches(index))
            line: dict[str, Any] = {"step": index + 1, "epoch": index // schedule.steps_per_epoch}
            evaluate = index + 1 == loop.steps or _reading_due(index + 1, loop.eval_every, method.period)
            probing = method.probing(index, loop.steps)
            compute = gradients if probing is None else partial(zeroth, probing=probing, seed=derive(loop.seed, index))
            estimate = partial(compute, method, subject, scope, reference, micro,
                               method.separate or evaluate or index == 0, accelerator)
            method.begin(index, loop.steps)
            anew = partial(perturbed, method, scope, estimate, index, loop.steps) if method.perturbs else estimate
            grads = anew()
            line |= grads.describe()
            bad = [n for n, v in grads.values.items() if not math.isfinite(v)]
            fine = not bad and all(math.isfinite(line.get(f"grad_norm_{role}", 0.0)) for role in BOTH)
            if fine:
                method.ready(line["epoch"], partial(retain_loss, method, subject, reference, accelerator), micro)
                method.again(scope, anew)
            update, noted = penalised(scope, method.combine(grads, line["epoch"])) if fine else ((), {})
            positions = grads.positions + method.spent()
            del grads  # free memory: only the update is needed now
            norm = float(torch.stack([g.norm() for g in update]).norm()) if fine else math.nan
            line |= noted | {"grad_norm": norm}
            if not math.isfinite(norm):
                if loop.checkpoint_every:
                    save()
                raise NonFiniteError(
                    f"Step {index + 1}: {'the term ' + ' and '.join(bad) if bad else 'the gradient'} is not finite.",
                    f"The weights after step {index}, the last finite ones, are kept in {folder}."
                    if loop.checkpoint_every else "",
                    "Try a smaller learning rate, or gradient clipping (adamw(clip=1.0)).",
                )
            scale = 1.0 if method.clip is None else min(1.0, method.clip / (norm + 1e-6))
            line["lr"] = method.learning_rate(index, loop.steps, schedule.steps_per_epoch)
            for group in optimizer.param_groups:
                group.update(lr=line["lr"], estimated=probing is not None)
            with method.around_step(scope, optimizer):
                apply(optimizer, scope, update, scale)
            scope.enforce()
            if method.settle(scope, optimizer, index, loop.steps):
                scope.enforce()
            line |= method.figures()

            progress.step += 1
            if monitor and evaluate:
                now = monitor()
                line["eval"] = now
                if loop.stop.better(now, progress.best, progress.start):
                    progress.best = now | {"step": progress.step}
                    state.best = take(scope.parameters) if loop.stop.keep == "best" else None
                done = progress.step / loop.steps
                new_alarms = alarms(now, progress.start, probe.mean(), done, method.forgets)
                progress.alarms += [a for a in new_alarms if a.split("(")[0] not in str(progress.alarms)]
                line["alarms"] = progress.alarms
                reason = loop.stop.reason_to_stop(now, progress.start)
                if reason:
                    progress.reason, progress.stopped = reason, True
            line["seconds"] = time.perf_counter() - started
            progress.seconds += line["seconds"]
            progress.positions += positions
            progress.tokens += sum(b.count("positions") for m in micro for b in m.values())
            log.write(json.dumps(line) + "\n")
            log.flush()
            if on_step:
                on_step(line)
            if processes.any_process(bool(interrupted)):
                after = f"Interrupted after step {progress.step} of {loop.steps}."
                if not loop.checkpoint_every:
                    raise InterruptedRun(after, "The steps before it are not kept.")
                save()
                raise InterruptedRun(after, "What was finished is kept.",
                                     "Run the same command with --resume, or without if it has no such option.")
            due = progress.stopped or progress.step == loop.steps or progress.step % (loop.checkpoint_every or 1) == 0
            if due and loop.checkpoint_every:
                save()
    state.optimizer, state.method = optimizer.state_dict(), method.state()
    if state.best is not None and loop.stop.keep == "best" and (progress.stopped or progress.step == loop.steps):
        put(scope.parameters, {n: v.to(subject.device) for n, v in state.best.items()})
    return state


def _reading_due(done: int, every: int, period: int) -> bool:
    """Whether the monitor reads after step `done`: once the weights are settled, if `every` steps are over since."""
    return every > 0 and done % period == 0 and done // every > (done - period) // every


def _restored(folder: Path, scope: Scope, optimizer: torch.optim.Optimizer, method: Method,
              state: FitState) -> FitState:
    """The checkpoint's state if there is one, else `state`; loads it, and truncates the log to its step."""
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "steps.jsonl"
    stored = Checkpoints(folder / "checkpoint").restore(scope.parameters)
    state = stored or state
    if state.optimizer:
        optimizer.load_state_dict({"param_groups": optimizer.state_dict()["param_groups"]} | state.optimizer)
    if state.method:
        method.restore(state.method)
    if processes.is_main():
        # The last line may be incomplete after a kill, so lines are counted instead of parsed.
        lines = log.read_text(encoding="utf-8").splitlines(keepends=True) if stored else []
        write_text(log, "".join(lines[: state.progress.step]))
    return state
