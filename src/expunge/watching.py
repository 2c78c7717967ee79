"""What looks on while a loop runs: the line on the screen, functions of the caller, and trackers.

Trackers are those of accelerate: tensorboard, wandb, trackio and others, each an optional package.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker

from expunge import processes
from expunge.console import Reporter
from expunge.errors import MissingExtra, UsageError, did_you_mean, install_line
from expunge.records.run import RunRecord
from expunge.training.loop import OnStep

EXTRAS = ("tensorboard", "wandb", "trackio")
"""Trackers that are extras of expunge; the others are installed by their own name."""
Track = str | Sequence[Any]
"""Names, or trackers of one's own: a subclass of accelerate's `GeneralTracker`."""


class StepLine:
    """Shows every step of a loop: its terms, the last reading, and each alarm once; then passes the line on."""

    def __init__(self, reporter: Reporter, title: str, steps: int, others: Sequence[OnStep] = ()) -> None:
        self._reporter, self._tick, self._others = reporter, reporter.task(title, steps), others
        self._step, self._alarms = 0, set[str]()

    def __call__(self, line: dict[str, Any]) -> None:
        words = " ".join(f"{k}={v:.3f}" for k, v in line["terms"].items())
        if "eval" in line:
            words += f" | forget {line['eval']['forget']:.3f} utility {line['eval']['utility']:.3f}"
        self._tick(line["step"] - self._step, words)  # a resumed run begins in the middle
        self._step = line["step"]
        for alarm in line.get("alarms", []):
            if alarm not in self._alarms:
                self._alarms.add(alarm)
                self._reporter.warn(alarm)
        for look in self._others:
            look(line)


def check_trackers(track: Track) -> list[str | GeneralTracker]:
    """The trackers, as a list.

    Raises:
        UsageError: an unknown name.
        MissingExtra: the package of a tracker is not installed.
    """
    names = [track] if isinstance(track, str | GeneralTracker) else list(track)
    for name in names:
        if isinstance(name, GeneralTracker):
            continue
        if name not in LOGGER_TYPE_TO_CLASS:
            raise UsageError(f"There is no tracker {name!r}.", did_you_mean(name, LOGGER_TYPE_TO_CLASS))
        packages = ("tensorboard", "tensorboardX") if name == "tensorboard" else (name,)
        if not any(importlib.util.find_spec(package) for package in packages):
            wanted = install_line(name) if name in EXTRAS else f"pip install {name}"
            raise MissingExtra(f"The tracker {name} needs its package.", f"{packages[0]} is not installed.",
                               f"Install it with: {wanted}.")
    return names


@contextmanager
def watched(on_step: OnStep | Sequence[OnStep], track: Track, out: Path, record: RunRecord) -> Iterator[list[OnStep]]:
    """All functions to call with every line; trackers are started, and finished in the end, in the main process.

    Args:
        out: folder of the run; trackers that write files do so in its folder `tracking`.
    """
    looking = [on_step] if callable(on_step) else list(on_step)
    trackers = [_started(t, out, record) for t in check_trackers(track)] if processes.is_main() else []
    try:
        yield [*looking, *map(_passed_on, trackers)]
    finally:
        for tracker in trackers:
            tracker.finish()


def _started(track: str | GeneralTracker, out: Path, record: RunRecord) -> GeneralTracker:
    """A tracker that knows the settings of the run."""
    if isinstance(track, GeneralTracker):
        tracker = track
    else:
        kind = LOGGER_TYPE_TO_CLASS[track]
        options = {"logging_dir": str(out / "tracking")} if kind.requires_logging_directory else {}
        tracker = kind(out.resolve().name, **options)
    tracker.start()
    plain = {"recipe": record.recipe, "model": record.model, "task": record.task, "seed": record.seed,
             **record.settings.to_json()}
    tracker.store_init_configuration({k: v if isinstance(v, int | float | bool) else str(v) for k, v in plain.items()})
    return tracker


def _passed_on(tracker: GeneralTracker) -> OnStep:
    """Logs the numbers of every line. Steps of several stages count on."""
    before = last = 0

    def log(line: dict[str, Any]) -> None:
        nonlocal before, last
        if line["step"] <= last:  # the next stage
            before += last
        last = line["step"]
        tracker.log(figures(line), step=before + last)

    return log


def figures(line: dict[str, Any]) -> dict[str, float]:
    """The numbers of a line of steps.jsonl by one name each: `loss`, `terms/npo`, `eval/forget` ..."""
    found: dict[str, float] = {}
    for name, value in line.items():
        if isinstance(value, dict):
            found |= {f"{name}/{inner}": float(v) for inner, v in value.items() if isinstance(v, int | float)}
        elif isinstance(value, int | float) and name != "step":
            found[name] = float(value)
    return found
