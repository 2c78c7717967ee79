"""What the server has done, as text for Prometheus, and one JSON line per request."""

from __future__ import annotations

import json
import os
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, TextIO

EDGES = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""Upper edges of the buckets of the histogram of seconds."""
ABOUT = {
    "expunge_requests_total": ("counter", "Requests by path and status."),
    "expunge_tokens_total": ("counter", "Tokens by kind: prompt or completion."),
    "expunge_disconnects_total": ("counter", "Clients that went away before their answer ended."),
    "expunge_errors_total": ("counter", "Errors inside the server by type."),
    "expunge_log_lines_lost_total": ("counter", "Lines of the log that could not be written."),
    "expunge_waiting": ("gauge", "Requests that wait for their turn."),
    "expunge_active": ("gauge", "Requests that wait or are answered."),
    "expunge_resident_memory_bytes": ("gauge", "Memory of the process."),
    "expunge_info": ("gauge", "The model and its guard."),
}


class Counters:
    """Counts and one histogram, safe to be used from several threads.

    Args:
        gauges: name -> what to ask for its value now.
        info: labels of `expunge_info`.
    """

    def __init__(self, gauges: Mapping[str, Callable[[], float]], info: Mapping[str, str]) -> None:
        self._gauges, self._info = dict(gauges), dict(info)
        self._counts: Counter[tuple[str, str]] = Counter()
        self._buckets, self._sum, self._lock = [0] * (len(EDGES) + 1), 0.0, threading.Lock()

    def add(self, name: str, by: int = 1, **labels: str) -> None:
        with self._lock:
            self._counts[name, _labels(labels)] += by

    def seconds(self, value: float) -> None:
        """How long a request took."""
        with self._lock:
            self._sum += value
            self._buckets[sum(value > edge for edge in EDGES)] += 1

    def text(self) -> str:
        """The text format of Prometheus, version 0.0.4."""
        with self._lock:
            counts, buckets, total = dict(self._counts), list(self._buckets), self._sum
        lines = []
        for name, (kind, about) in ABOUT.items():
            lines += [f"# HELP {name} {about}", f"# TYPE {name} {kind}"]
            if name == "expunge_info":
                lines.append(f"{name}{_labels(self._info)} 1")
            elif name in self._gauges:
                lines.append(f"{name} {self._gauges[name]():g}")
            else:
                lines += [f"{name}{labels} {n}" for (own, labels), n in sorted(counts.items()) if own == name]
        name, so_far = "expunge_request_seconds", 0
        lines += [f"# HELP {name} Seconds of a request, from its body to the end of its answer.",
                  f"# TYPE {name} histogram"]
        for edge, n in zip((*map(str, EDGES), "+Inf"), buckets, strict=True):
            so_far += n
            lines.append(f'{name}_bucket{{le="{edge}"}} {so_far}')
        return "\n".join([*lines, f"{name}_sum {total:.6f}", f"{name}_count {so_far}", ""])


def _labels(labels: Mapping[str, str]) -> str:
    def escaped(text: str) -> str:
        return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")

    return "{" + ",".join(f'{k}="{escaped(v)}"' for k, v in sorted(labels.items())) + "}" if labels else ""


def resident_bytes() -> float:
    """Memory of this process that is in use; 0 where the system does not tell."""
    try:
        with open("/proc/self/statm", encoding="ascii") as opened:
            return float(int(opened.read().split()[1]) * os.sysconf("SC_PAGE_SIZE"))
    except (OSError, ValueError, IndexError):
        return 0.0


class RequestLog:
    """One JSON object a line. Prompts and answers are left out unless they are asked for.

    Args:
        out: where lines go; None writes none.
    """

    PRIVATE = ("prompt", "answer", "trace")

    def __init__(self, out: TextIO | None, prompts: bool) -> None:
        self._out, self.prompts, self._lock, self.lost = out, prompts, threading.Lock(), 0

    def write(self, event: str, **fields: Any) -> None:
        if self._out is None:
            return
        kept = {k: v for k, v in fields.items() if v is not None and (self.prompts or k not in self.PRIVATE)}
        line = json.dumps({"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "event": event} | kept)
        with self._lock:
            try:
                self._out.write(line + "\n")
                self._out.flush()
            except OSError:  # such as a full disk: requests are answered all the same
                self.lost += 1
