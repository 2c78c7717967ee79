"""In what ways a model was tested, what brought something out, and what nobody tried."""

from __future__ import annotations

from expunge.records.base import Record

ASKED = "as asked"
"""Without any attack."""


class Coverage(Record):
    """What a verdict covers: ways to test, a word or two each, those of least access first."""

    brought_out: tuple[str, ...] = ()
    """Ways that showed more than of the control."""
    silent: tuple[str, ...] = ()
    """Ways that did not."""
    untested: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """`as asked, paraphrases, relearning; not tested: jailbreaks`, or first what brought something out."""
        said = [f"not tested: {', '.join(self.untested)}"] if self.untested else []
        if not self.brought_out:
            return "; ".join([*([", ".join(self.silent)] if self.silent else []), *said])
        silent = [f"not {_by(self.silent)}"] if self.silent else []
        return "; ".join([f"brought out {_by(self.brought_out)}", *silent, *said])


def _by(ways: tuple[str, ...]) -> str:
    """`as asked, by relearning, rounding`."""
    others = [way for way in ways if way != ASKED]
    return ", ".join([*(way for way in ways if way == ASKED), *([f"by {', '.join(others)}"] if others else [])])
