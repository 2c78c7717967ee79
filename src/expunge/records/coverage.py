"""Ways to test a model: which found something, raised an alarm, found nothing or were not tried."""

from __future__ import annotations

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
