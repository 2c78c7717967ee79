"""What `expunge demo` prints, from a stored audit of a real run: results/demo_screen.json, shown in the README.

    python experiments/demo_screen.py

runs the demo (a minute; some minutes where the models of the built-in world are not cached) and stores its audit.
`screen()` prints the stored audit with today's code, so that `make lint` notices when the README shows something else.
"""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any
from unittest.mock import patch

from common import RESULTS, store
from rich.console import Console

from expunge.cli.showing import WIDTH, show_audit
from expunge.console import Reporter
from expunge.judgement.leaks import decided
from expunge.judgement.verdict import verdict
from expunge.records.score import Audit

OUT = "expunge-demo"


class Notes(Reporter):
    """Keeps the notes, shows no progress."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.kept: list[str] = []

    def note(self, *texts: str) -> None:
        self.kept += texts


def screen() -> str:
    """The stored demo as `expunge demo` prints it."""
    found = json.loads((RESULTS / "demo_screen.json").read_text())
    audit = Audit.model_validate(found["audit"])
    scores = decided(audit.scores)
    power = audit.verdict.power if audit.verdict else None
    audit = audit.model_copy(update={"scores": scores, "verdict": verdict(scores, audit.attacks, power=power)})
    more = f"expunge audit {OUT} --retrained {audit.retrained[0].path} --out audit"
    written = io.StringIO()
    reporter = Reporter(quiet=True)
    reporter.out = Console(file=written, width=WIDTH, highlight=False)
    # The run itself is not stored, which would say that `forget` made the model.
    with contextlib.redirect_stdout(written), patch("expunge.cli.showing.column", return_value="unlearned"):
        show_audit(audit, reporter, OUT, page=f"{OUT}/report.html", follow_up=more)
    lines = [*found["notes"], *written.getvalue().splitlines()]
    return "```text\n" + "\n".join(line.rstrip() for line in lines) + "\n```"


def main() -> None:
    import expunge

    notes = Notes()
    place = Path(tempfile.mkdtemp(prefix="expunge-"))
    try:
        _, audit, _ = expunge.demo(place / OUT, reporter=notes)
    finally:
        shutil.rmtree(place, ignore_errors=True)
    found: dict[str, Any] = audit.to_json() | {"environment": {}, "timing": {}}
    for subject in (found["subject"], found["original"], *found["retrained"], *found["controls"]):
        name = Path(subject["path"]).name
        subject["path"] = OUT if name == OUT else f"~/.cache/expunge/models/{name}"
    store("demo_screen", {"notes": notes.kept, "audit": found})


if __name__ == "__main__":
    main()
