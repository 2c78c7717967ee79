"""Data-parallel runs in several processes, started by `accelerate launch` or `torchrun`; no cost in one process.

Every process holds the whole model and draws the same rows. It computes its share of the rows of a step; gradients are
summed over all processes, so all take the same optimizer step. Only the main process writes files and prints.
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
"""Number of elements per all-reduce; a buffer of this size is allocated for it."""
PATIENCE = 10.0
"""Seconds within which the launcher ends a process after another has failed."""
SHARDED = {"ACCELERATE_USE_FSDP": "FSDP", "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
           "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM"}
"""Environment variables by which launchers announce sharded models -> name of the method."""


def count() -> int:
    """Number of processes the launcher started for this run; 1 without a launcher."""
    return int(os.environ.get("WORLD_SIZE", 1)) if "LOCAL_RANK" in os.environ else 1


def rank() -> int:
    """Rank of this process, from 0."""
    return int(os.environ.get("RANK", 0)) if count() > 1 else 0


def precision() -> str:
    """The mixed precision set by the launcher; "no" without one."""
    return os.environ.get("ACCELERATE_MIXED_PRECISION", "no")


def check_precision(name: str) -> None:
    """Raises UsageError for a precision that the loop does not support."""
    if name == "fp16":
        raise UsageError("This loop runs in float32 or bf16; fp16 would need a loss scaler.",
                         fix="Start it without a launcher, or with --mixed_precision bf16.")


def is_main() -> bool:
    """Whether this is the process that writes files and prints."""
    return rank() == 0


def refuse_several(what: str) -> None:
    """Raises UsageError if several processes were started for `what`."""
    if count() > 1:
        raise UsageError(f"{what} works in one process, and {count()} were started.",
                         "Each would do all the work and write the same files.", "Start it without a launcher.")


def start() -> None:
    """Initialise the process group, once. Raises UsageError for launcher settings that are not supported."""
    for name, method in SHARDED.items():
        if os.environ.get(name, "").lower() in ("true", "1", "yes", "on"):
            raise UsageError(f"This loop cannot run under {method}.",
                             "It computes gradients per role, which sharded weights do not provide.",
                             "Launch plain processes (--multi_gpu), with lora(...) or --gradient-checkpointing if "
                             "memory is short.")
    check_precision(precision())
    if count() == 1:
        return
    import torch
    from accelerate import PartialState

    # A long timeout: a process may work for hours on a large reference, and the launcher notices one that ended.
    state = PartialState(cpu=not torch.cuda.is_available(), timeout=timedelta(days=1))
    if state.num_processes != count():
        raise UsageError(f"{count()} processes were started, but only {state.num_processes} are connected.",
                         fix="Start them with `accelerate launch --multi_gpu` or torchrun.")


@contextmanager
def closing_group() -> Iterator[None]:
    """Destroys the process group at the end, after all processes have arrived; otherwise closing it may abort.

    After an exception it does not wait, since the others may never arrive.
    """
    try:
        yield
    except SystemExit as end:
        if not end.code:
            _close_group()
        raise
    _close_group()


def _close_group() -> None:
    if count() == 1:
        return
    import torch

    if torch.distributed.is_initialized():
        wait()
        torch.distributed.destroy_process_group()


def wait() -> None:
    """Blocks until every process has arrived here."""
    any_process(False)


def share(rows: Sequence[T]) -> Sequence[T]:
    """This process's part of `rows`; may be empty if there are fewer rows than processes."""
    return rows[rank()::count()] if count() > 1 else rows


def add(tensors: Sequence[Tensor]) -> None:
    """Sum each tensor over all processes, in place, with identical bits in all processes. All must have one dtype."""
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
        with _peer_errors():
            torch.distributed.all_reduce(flat)
        for part, total in zip(bucket, flat.split([t.numel() for t in bucket]), strict=True):
            part.copy_(total.view_as(part))
        bucket = []


def add_figures(*figures: Mapping[str, float]) -> list[dict[str, float]]:
    """Each mapping summed over all processes; names may differ between processes."""
    if count() == 1:
        return [dict(one) for one in figures]
    sums: list[dict[str, float]] = [{} for _ in figures]
    for gathered in _gather(figures):
        for total, one in zip(sums, gathered, strict=True):
            for name, value in one.items():
                total[name] = total.get(name, 0.0) + value
    return sums


def any_process(flag: bool) -> bool:
    """Whether `flag` is true in any process; the same result in all."""
    return any(_gather(flag)) if count() > 1 else flag


def check_same(what: str, value: Callable[[], str]) -> None:
    """Raises ExpungeError unless `value()` is equal in all processes, since machines may have different files."""
    if count() > 1 and len(set(_gather(value()))) > 1:
        raise ExpungeError(f"The {count()} processes of this run do not start with the same {what}.",
                           "They may read other files, or run other versions.",
                           "Give them one output folder and one environment.")


def on_main(work: Callable[[], T]) -> T:
    """Runs `work` in the main process after all have arrived; every process returns its result or raises its error."""
    if count() == 1:
        return work()
    import torch

    wait()
    outcome: list[Any] = [None, None]
    if is_main():
        try:
            outcome[0] = work()
        except ExpungeError as error:
            outcome[1] = (type(error), error.what, error.why, error.fix)
    with _peer_errors():
        torch.distributed.broadcast_object_list(outcome, src=0)
    if outcome[1] is not None:
        kind, *texts = outcome[1]
        raised = kind.__new__(kind)
        ExpungeError.__init__(raised, *texts)
        raise raised
    result: T = outcome[0]
    return result


@contextmanager
def main_output_only() -> Iterator[None]:
    """Discards standard output of all processes except the main one."""
    if is_main():
        yield
        return
    with open(os.devnull, "w", encoding="utf-8") as null, contextlib.redirect_stdout(null):
        yield


def should_report(problem: ExpungeError) -> bool:
    """Whether this process should print the error.

    The main process should. Any other process waits first: if all fail, the launcher ends it meanwhile; if it is the
    only one that failed, it must print the error itself.
    """
    if is_main():
        return True
    if isinstance(problem, InterruptedRun):  # all processes stop together
        return False
    time.sleep(PATIENCE)
    return True


def _gather(value: T) -> list[T]:
    """The value of every process, by rank."""
    import torch

    start()
    values: list[Any] = [None] * count()
    with _peer_errors():
        torch.distributed.all_gather_object(values, value)
    return values


@contextmanager
def _peer_errors() -> Iterator[None]:
    """Turns a broken connection into an ExpungeError."""
    try:
        yield
    except RuntimeError as error:
        raise ExpungeError("Another process of this run has ended.", "Its message, or the launcher's, says why.",
                           "The same command with --resume continues from the last checkpoint.") from error
