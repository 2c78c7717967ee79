"""The studies of `expunge study` at their default settings; findings and figures go to results/studies.json.

Each is kept in a folder, and an interrupted call goes on where it stopped. What is stored of others stays.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from common import RESULTS, log, store

import expunge
from expunge.records.base import read_json
from expunge.studies.run import STUDIES

OTHERS: dict[str, tuple[str, dict[str, Any]]] = {
    "worst_case on images": ("worst_case", {
        "task": "digits(forget=random:0.1,per_class=40)", "count": 6,
        "method": "l1_sparse(gamma=1e-4) + adamw(lr=1e-3); grad_diff + adamw(lr=3e-4)"})}
"""Name -> study and its options, where it is not that of the defaults."""


def main(names: list[str], work: Path) -> None:
    stored = RESULTS / "studies.json"
    found = dict(read_json(stored)["studies"]) if stored.exists() else {}
    for name in names:
        out = work / name.replace(" ", "-")
        study, options = OTHERS.get(name, (name, {}))
        done = expunge.study(study, out=out, resume=out.exists(), **options)
        assert done.found is not None
        found[name] = {"task": done.task, "settings": done.settings, "parts": len(done.parts), "seconds": done.seconds,
                       "commit": done.environment["commit"], "findings": list(done.found.findings),
                       "figures": done.found.figures}
        log((name, done.found.findings[0]))
    log(("stored", store("studies", {"studies": found})))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=[*STUDIES, *OTHERS], help="Studies to run; all by default.")
    parser.add_argument("--work", type=Path, default=Path("studies"), help="folder for the records and pages")
    given = parser.parse_args()
    main(given.names or [*STUDIES, *OTHERS], given.work)
