"""Monitor of a run: answer probabilities on samples of rows, read between steps."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path

from expunge.errors import NonFiniteError
from expunge.models.subject import Subject
from expunge.records.run import RunFolder
from expunge.records.task import Example, Task
from expunge.seeding import stream

MONITORED = 64
"""Number of rows per side that the monitor reads."""


class Monitor:
    """Mean answer probabilities of the current subject on samples of forget and retain rows."""

    def __init__(self, subject: Subject, task: Task, seed: int) -> None:
        self._subject = subject
        self._forget = _sample(task.forget, seed)
        self._utility = _sample(task.retain or task.background, seed)
        self._holdout = _sample(task.holdout, seed)

    def __call__(self) -> dict[str, float]:
        """forget and utility (0 to 1), forget_loss (nats per token)."""
        forget = self._token_means(self._forget)
        utility = self._token_means(self._utility)
        return {"forget": _mean(map(math.exp, forget)), "forget_loss": -_mean(forget),
                "utility": _mean(map(math.exp, utility)) if utility else 1.0}

    def never_trained(self) -> float | None:
        """Mean probability on holdout rows, the target of forgetting; None without holdout rows."""
        means = self._token_means(self._holdout)
        return _mean(map(math.exp, means)) if means else None

    def _token_means(self, examples: Sequence[Example]) -> list[float]:
        """Mean log-prob per token of each answer."""
        subject, means = self._subject, list[float]()
        rows = [subject.encoder.encode(e) for e in examples]
        with subject.evaluating():
            for chosen in subject.encoder.batches(rows):
                batch = subject.collate([rows[i] for i in chosen])
                answers = subject.answers(batch)
                sums_B = answers.per_row(answers.logp_N)
                means += [float(s) / (r.supervised) for s, r in zip(sums_B, batch.rows, strict=True)]
        return means


class CheckedMonitor(Monitor):
    """The monitor of a run in `folder`; raises an error if a reading is not finite.

    Raises:
        NonFiniteError: a reading is not finite. After the last step no loss would show this.
    """

    def __init__(self, subject: Subject, task: Task, seed: int, folder: Path) -> None:
        super().__init__(subject, task, seed)
        self._folder = folder
        self._untouched = not (folder / "checkpoint").exists()

    def __call__(self) -> dict[str, float]:
        reading, untouched = super().__call__(), self._untouched
        self._untouched = False
        if all(map(math.isfinite, reading.values())):
            return reading
        if untouched:
            raise NonFiniteError("Before the first step the model's answers are not finite.",
                                 fix="Its weights are broken; look at them before they are changed.")
        done = len(RunFolder(self._folder).steps.read_text(encoding="utf-8").splitlines())
        raise NonFiniteError(f"Step {done + 1}: the model's answers are not finite any more.",
                             f"The checkpoints before it, if there are any, are kept in {self._folder}.",
                             "Try a smaller learning rate, or gradient clipping (adamw(clip=1.0)).")


def _sample(rows: Sequence[Example], seed: int) -> list[Example]:
    return list(rows) if len(rows) <= MONITORED else stream(seed, "monitor").sample(list(rows), MONITORED)


def _mean(values: Iterable[float]) -> float:
    numbers = list(values)
    return sum(numbers) / len(numbers)
