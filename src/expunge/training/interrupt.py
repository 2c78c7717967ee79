"""Handling of Ctrl-C and SIGTERM between steps."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any


@contextmanager
def interruptible() -> Iterator[list[int]]:
    """Turn the first Ctrl-C or SIGTERM into a flag, so that a step is always completed."""
    flag: list[int] = []

    def note(signum: int, frame: Any) -> None:
        if flag:
            raise KeyboardInterrupt
        flag.append(signum)

    with ExitStack() as stack:
        try:
            for number in (signal.SIGINT, signal.SIGTERM):
                stack.callback(signal.signal, number, signal.signal(number, note))
        except ValueError:  # not the main thread: only that one may handle signals
            pass
        yield flag
