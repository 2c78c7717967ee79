"""Are they the published scores? Our metrics against the official code of benchmarks, on the same model outputs.

    git clone https://github.com/OWNER/NAME FOLDER/NAME && git -C FOLDER/NAME checkout COMMIT
    python experiments/official_scores.py --checkouts FOLDER [BENCHMARK ...] [--seeds 3] [--keep]

FOLDER is a checkout, or holds checkouts named NAME or OWNER+NAME. Without BENCHMARK all are compared whose checkout is
there. `--keep` puts the rows into results/official_scores.json. RWKU's code needs the package `rouge`, and for its
fluency the data punkt_tab of nltk; what is missing is left out and named. `experiments/scored/__init__.py` says more.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import pkgutil
from pathlib import Path
from types import ModuleType
from typing import Any

import scored
import torch
from common import RESULTS, log, store
from official.taken import check_commit, checkout
from scored.cases import Compared

from expunge.records.base import read_json
from expunge.records.run import environment

HELPERS = {"cases", "stubs"}
NAMES = sorted({m.name for m in pkgutil.iter_modules(scored.__path__)} - HELPERS)
SEEDS = 3


def comparator(name: str) -> ModuleType:
    return importlib.import_module(f"scored.{name}")


def rows(module: ModuleType, place: Path, seeds: int) -> list[Compared]:
    """One row per comparison: the largest difference over seeds, and the cases of all seeds."""
    found: dict[tuple[str, ...], Compared] = {}
    for seed in range(seeds):
        for one in module.compare(place, seed):
            key = (one.score, one.theirs, one.what)
            cases, furthest = (found[key].cases, found[key].difference) if key in found else (0, 0.0)
            found[key] = Compared(one.score, one.theirs, one.what, cases + one.cases, max(furthest, one.difference),
                                  one.deviation)
    return list(found.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("benchmarks", nargs="*", metavar="BENCHMARK", help=f"one of {', '.join(NAMES)}")
    parser.add_argument("--checkouts", type=Path, required=True, help="a checkout, or a folder of checkouts")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--keep", action="store_true", help="write results/official_scores.json")
    given = parser.parse_args()
    if unknown := set(given.benchmarks) - set(NAMES):
        parser.error(f"no module for {', '.join(sorted(unknown))} in experiments/scored/")
    torch.set_num_threads(1)
    around = environment()  # before anything is written: afterwards the tree is not that of the commit
    for name in given.benchmarks or NAMES:
        module = comparator(name)
        place = checkout(given.checkouts.resolve(), module.REPOSITORY)
        if place is None:
            if given.benchmarks:
                parser.error(f"{given.checkouts} has no checkout of {module.REPOSITORY}")
            log((name, "left out: no checkout of", module.REPOSITORY))
            continue
        check_commit(place, module.COMMIT)
        found = rows(module, place, given.seeds)
        for one in found:
            log((f"{name:7}{one.difference:9.1e}", one.score, "|", one.theirs, "|", one.what, f"({one.cases})",
                 f"deviates: {one.deviation}" if one.deviation else ""))
        if given.keep:
            keep(name, module, place, found, around, given.seeds)


def keep(name: str, module: ModuleType, place: Path, found: list[Compared], around: dict[str, Any],
         seeds: int) -> None:
    """Put the rows of a benchmark into results/official_scores.json."""
    path = RESULTS / "official_scores.json"
    kept = read_json(path)["benchmarks"] if path.exists() else {}
    row = {"repository": module.REPOSITORY, "commit": module.COMMIT, "seeds": list(range(seeds)),
           "files": {file: hashlib.sha256((place / file).read_bytes()).hexdigest()[:16] for file in module.FILES},
           "rows": [vars(one) for one in found], "our_commit": around["commit"]}
    store("official_scores", {"script": "experiments/official_scores.py", "environment": around,
                              "benchmarks": dict(sorted({**kept, name: row}.items()))})


if __name__ == "__main__":
    main()
