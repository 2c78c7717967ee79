"""The seam of a probe: one pass over the rows of a split, one row of evidence each."""

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
    """Asks a subject about examples. Never changes the subject, never sees how it was made."""

    partnered: ClassVar[bool] = False
    """True when it looks at the subject beside the original, which `observe` then gets as `partner`."""
    alone: ClassVar[bool] = False
    """True when a partnered probe can also do without the original, with what that costs written into its rows."""

    spared_by: ClassVar[str] = ""
    """A probe whose rows of the same split save this one work, and change nothing; `observe` then gets them as `read`.
    """

    def count(self, examples: Sequence[Example]) -> int:
        """Units of work on these examples, for progress bars."""
        return len(examples)

    def observe(self, subject: AnySubject, examples: Sequence[Example], task: Task,
                progress: Progress | None = None, *, partner: AnySubject | None = None) -> list[Row]:
        """One or more rows per example, in the order given; a `partnered` one raises UsageError without its partner."""
        raise NotImplementedError

    def need(self, partner: AnySubject | None) -> AnySubject:
        """The original; raises UsageError where there is none."""
        if partner is None:
            raise UsageError(f"{self.card.name} looks at the subject beside the original, and none was given.",
                             fix="Pass it with --original.")
        return partner
