"""Base class of probes: one pass over the examples of a split, at least one row of observations each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

from expunge.errors import UsageError
from expunge.models.subject import AnySubject
from expunge.plugin import Plugin
from expunge.records.observation import Row
from expunge.records.task import Example, Task

Progress = Callable[[int], None]


class Probe(Plugin):
    """Observes a subject on examples. It never changes the subject and does not know the method that made it."""

    uses_original: ClassVar[bool] = False
    """True when it compares the subject with the original; `observe` then receives the original as `partner`."""
    original_optional: ClassVar[bool] = False
    """True when a probe that uses the original also works without it; its rows then say so."""
    reuses: ClassVar[str] = ""
    """Name of a probe whose rows of the same split save this one work; `observe` receives them as `reused`. The
    result is the same without them."""

    def count(self, examples: Sequence[Example]) -> int:
        """Units of work for these examples, for progress bars."""
        return len(examples)

    def observe(self, subject: AnySubject, examples: Sequence[Example], task: Task,
                progress: Progress | None = None, *, partner: AnySubject | None = None) -> list[Row]:
        """One or more rows per example, in the order given. Raises UsageError without an original that it needs."""
        raise NotImplementedError

    def require_original(self, partner: AnySubject | None) -> AnySubject:
        """The original; raises UsageError if there is none."""
        if partner is None:
            raise UsageError(f"{self.card.name} compares the subject with the original, and none was given.",
                             fix="Pass it with --original.")
        return partner
