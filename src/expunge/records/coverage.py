"""Ways to test a model: which found something, raised an alarm, found nothing or were not tried; and a checklist."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from expunge.records.base import Record

ASKED = "plain questions"
"""Without any attack."""


class Coverage(Record):
    """What a verdict covers: ways to test, a word or two each, those of least access first."""

    brought_out: tuple[str, ...] = ()
    """Ways that found more than of the control."""
    alarmed: tuple[str, ...] = ()
    """Ways that found more, but not beyond doubt."""
    silent: tuple[str, ...] = ()
    """Ways that found nothing although they could have."""
    untested: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """`found by relearning; alarm by paraphrases; nothing found by plain questions; not tried: jailbreaks`."""
        groups = {"found by": self.brought_out, "alarm by": self.alarmed, "nothing found by": self.silent,
                  "not tried:": self.untested}
        return "; ".join(f"{head} {', '.join(ways)}" for head, ways in groups.items() if ways)


class ChecklistItem(Record):
    """One question that every audit answers, from what it ran."""

    question: str
    """Begins with "Whether"."""
    answer: Literal["tested", "partly", "not tested", "does not apply"]
    found: str
    """What was done, or is missing, with figures."""
    evidence: tuple[str, ...] = ()
    """Keys of the scores that it rests on: `forget.probability`, `forget.probability@relearn(steps=16)`."""


@dataclass
class FolderPlace:
    """Where an audit lies on disk. All are equal: the place is no part of what an audit says."""

    path: Path | None = field(default=None, compare=False)
