"""Clocks that both programs of the speed comparison carry; only the standard library, since both import it.

A row is written down at the start of every training step: the wall and CPU clock, and what has been spent so far
inside the model. Differences between rows then hold all that a step does, data handling and logging included.
"""

from __future__ import annotations

import functools
import json
import os
import resource
import sys
import time
from pathlib import Path
from typing import Any

STARTED = "EXPUNGE_PEER_STARTED"
"""Environment variable: `time.time()` just before the process was started."""


class Clocks:
    """What one process measures of itself.

    Args:
        path: where `write` puts it, as JSON.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._inside = False
        self._peak = 0
        self.began = float(os.environ[STARTED])
        self.found: dict[str, Any] = {"steps": [], "losses": [], "spent": {}}

    def imported(self) -> None:
        """The program's own modules are there, and nothing has been done yet."""
        self.found["import"] = self._now()

    def tick(self) -> None:
        """A step starts."""
        self.found["steps"].append(self._now() | {"spent": dict(self.found["spent"])})

    def patch(self, owner: Any, attribute: str, name: str, *, around: bool = False) -> None:
        """Add up the CPU seconds of `owner.attribute` under `name`, wherever it is called from now on.

        Nested work counts once, for the outermost name; what goes `around` others is counted beside them.
        """
        work = getattr(owner, attribute)

        @functools.wraps(work)
        def run(*args: Any, **options: Any) -> Any:
            if self._inside and not around:
                return work(*args, **options)
            inside, self._inside = self._inside, not around
            before = time.process_time()
            try:
                return work(*args, **options)
            finally:
                self._inside = inside
                self.found["spent"][name] = self.found["spent"].get(name, 0.0) + time.process_time() - before

        setattr(owner, attribute, run)

    def look(self) -> None:
        """Remember the peak so far: a program may set the kernel's counter back."""
        self._peak = max(self._peak, peak_memory())

    def write(self) -> None:
        """At the end of the process."""
        self.look()
        self.found |= {"end": self._now(), "peak_memory_bytes": self._peak}
        self._path.write_text(json.dumps(self.found))

    def _now(self) -> dict[str, float]:
        return {"wall_s": time.time() - self.began, "cpu_s": time.process_time()}


def peak_memory() -> int:
    """Peak resident bytes. ru_maxrss would also count the parent that this process was forked from."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(line.split()[1] for line in lines if line.startswith("VmHWM:"))) * 1024
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
