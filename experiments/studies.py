"""The three studies of `expunge study` at their default settings; findings and figures go to results/studies.json.

Each is kept in a folder, and an interrupted call goes on where it stopped.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from common import log, store

import expunge
from expunge.studies.run import STUDIES


def main(names: list[str], work: Path) -> None:
    found = {}
    for name in names:
        out = work / name
        done = expunge.study(name, out=out, resume=out.exists())
        assert done.found is not None
        found[name] = {"task": done.task, "settings": done.settings, "parts": len(done.parts), "seconds": done.seconds,
                       "commit": done.environment["commit"], "findings": list(done.found.findings),
                       "figures": done.found.figures}
        log((name, done.found.findings[0]))
    log(("stored", store("studies", {"studies": found})))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=list(STUDIES), help="Studies to run; all by default.")
    parser.add_argument("--work", type=Path, default=Path("studies"), help="folder for the records and pages")
    given = parser.parse_args()
    main(given.names or list(STUDIES), given.work)
