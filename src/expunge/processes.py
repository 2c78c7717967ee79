"""Several processes that work on one run, as `accelerate launch` and `torchrun` start them; alone, all this is free.

Every process holds the whole model and knows every draw. It takes its share of the rows of a step, and sums go over
all processes, so all take the same optimizer step. Only the main process writes files and speaks.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from expunge.errors import ExpungeError, InterruptedRun, UsageError

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")
BUCKET = 2**25
"""Elements that are summed over processes at once: as much again stands in memory for a moment."""
PATIENCE = 10.0
"""Seconds in which the launcher ends a process when another has ended with an error."""
SHARDED = {"ACCELERATE_USE_FSDP": "FSDP", "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
           "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM"}
"""What launchers say in the environment about ways that cut the model in pieces."""


def count() -> int:
    """How many processes the launcher started for this run; 1 without a launcher."""
    return int(os.environ.get("WORLD_SIZE", 1)) if "LOCAL_RANK" in os.environ else 1


def rank() -> int:
    """Which of them this one is, from 0."""
    return int(os.environ.get("RANK", 0)) if count() > 1 else 0


def precision() -> str:
    """The mixed precision that the launcher asks for; "no" without one."""
    return os.environ.get("ACCELERATE_MIXED_PRECISION", "no")


def check_precision(name: str) -> None:
    """Raises UsageError for one that the loop cannot run in."""
    if name == "fp16":
        raise UsageError("This loop runs in float32 or bf16; fp16 would need a loss scaler.",
                         fix="Start it without a launcher, or with --mixed_precision bf16.")


def is_main() -> bool:
    """Whether this is the process that writes and speaks."""
    return rank() == 0


def refuse_several(what: str) -> None:
    """Refuse what only one process can do. Raises UsageError."""
    if count() > 1:
        raise UsageError(f"{what} works in one process, and {count()} were started.",
                         "Each of them would do all of it, and write the same files.", "Start it without a launcher.")


def start() -> None:
    """Meet the other processes, once. Raises UsageError where the launcher asks for what cannot be served."""
    for name, way in SHARDED.items():
        if os.environ.get(name, "").lower() in ("true", "1", "yes", "on"):
            raise UsageError(f"This loop cannot run under {way}.",
                             "It takes gradients role by role, which sharded weights do not give.",
                             "Launch plain processes (--multi_gpu), with lora(...) or --gradient-checkpointing where "
                             "memory is short.")
    check_precision(precision())
    if count() == 1:
        return
    import torch
    from accelerate import PartialState

    # The launcher notices a process that has ended; one that works for long, as on a large reference, has not.
    state = PartialState(cpu=not torch.cuda.is_available(), timeout=timedelta(days=1))
    if state.num_processes != count():
        raise UsageError(f"{count()} processes were started, but only {state.num_processes} met.",
                         fix="Start them with `accelerate launch --multi_gpu` or torchrun.")


@contextmanager
def parting() -> Iterator[None]:
    """After it, where it went well, processes part once all have come here: cutting the connection can end in an abort.

    Where it did not, the others may never come.
    """
    try:
        yield
    except SystemExit as end:
        if not end.code:
            _part()
        raise
    _part()


def _part() -> None:
    if count() == 1:
        return
    import torch

    if torch.distributed.is_initialized():
        wait()
        torch.distributed.destroy_process_group()


def wait() -> None:
    """Until every process has come here."""
    any_process(False)


def share(rows: Sequence[T]) -> Sequence[T]:
    """This process's part of rows that all processes know; none where there are fewer rows than processes."""
    return rows[rank()::count()] if count() > 1 else rows


def add(tensors: Sequence[Tensor]) -> None:
    """Sum each tensor over all processes, in place, to the same bits everywhere. All must have one dtype."""
    if count() == 1 or not tensors:
        return
    import torch

    start()
    bucket: list[Tensor] = []
    for i, tensor in enumerate(tensors):
        bucket.append(tensor)
        if i + 1 < len(tensors) and sum(t.numel() for t in bucket) + tensors[i + 1].numel() <= BUCKET:
            continue
        flat = torch.cat([t.flatten() for t in bucket])
        with _others():
            torch.distributed.all_reduce(flat)
        for part, found in zip(bucket, flat.split([t.numel() for t in bucket]), strict=True):
            part.copy_(found.view_as(part))
        bucket = []


def add_figures(*figures: Mapping[str, float]) -> list[dict[str, float]]:
    """Each mapping summed over all processes; a process may lack names that others have."""
    if count() == 1:
        return [dict(one) for one in figures]
    sums: list[dict[str, float]] = [{} for _ in figures]
    for theirs in _gather(figures):
        for total, one in zip(sums, theirs, strict=True):
            for name, value in one.items():
                total[name] = total.get(name, 0.0) + value
    return sums


def any_process(flag: bool) -> bool:
    """Whether any process says so; all get the same answer."""
    return any(_gather(flag)) if count() > 1 else flag


def check_same(what: str, look: Callable[[], str]) -> None:
    """Raises ExpungeError unless all processes see the same: other files on another machine would go unnoticed."""
    if count() > 1 and len(set(_gather(look()))) > 1:
        raise ExpungeError(f"The {count()} processes of this run do not begin with the same {what}.",
                           "They may read other files, or run other versions.",
                           "Give them one output folder and one environment.")


def on_main(work: Callable[[], T]) -> T:
    """Let the main process do it, once all have come here; every process returns, or raises, what came of it."""
    if count() == 1:
        return work()
    import torch

    wait()
    found: list[Any] = [None, None]
    if is_main():
        try:
            found[0] = work()
        except ExpungeError as error:
            found[1] = (type(error), error.what, error.why, error.fix)
    with _others():
        torch.distributed.broadcast_object_list(found, src=0)
    if found[1] is not None:
        kind, *words = found[1]
        theirs = kind.__new__(kind)
        ExpungeError.__init__(theirs, *words)
        raise theirs
    result: T = found[0]
    return result


@contextmanager
def main_output_only() -> Iterator[None]:
    """While it lasts, what any but the main process prints goes nowhere."""
    if is_main():
        yield
        return
    with open(os.devnull, "w", encoding="utf-8") as nowhere, contextlib.redirect_stdout(nowhere):
        yield


def should_report(problem: ExpungeError) -> bool:
    """Whether this process is to say what went wrong.

    The main process does. Another one waits: where all fail alike the launcher ends it meanwhile, and where it is
    the only one nobody else can tell.
    """
    if is_main():
        return True
    if isinstance(problem, InterruptedRun):  # agreed upon
        return False
    time.sleep(PATIENCE)
    return True


def _gather(value: T) -> list[T]:
    """The value of every process, by rank."""
    import torch

    start()
    found: list[Any] = [None] * count()
    with _others():
        torch.distributed.all_gather_object(found, value)
    return found


@contextmanager
def _others() -> Iterator[None]:
    """Say in words that a process is gone."""
    try:
        yield
    except RuntimeError as error:
        raise ExpungeError("Another process of this run has ended.", "Its message, or the launcher's, says why.",
                           "The same command with --resume goes on from the last checkpoint.") from error
