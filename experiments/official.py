"""Is it the published method? Losses and gradients of our plug-ins against official code, on random inputs.

    git clone https://github.com/OWNER/NAME FOLDER/NAME && git -C FOLDER/NAME checkout COMMIT
    python experiments/official.py --code FOLDER [METHOD ...] [--seeds 3] [--keep]
    python experiments/official.py --list

FOLDER is a checkout, or holds checkouts named NAME or OWNER+NAME. Without METHOD all are compared whose checkout is
there. `--keep` puts the rows into results/official.json in place of older ones of the same methods.
`experiments/official/__init__.py` says how to add a method.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import pkgutil
from pathlib import Path
from types import ModuleType
from typing import Any

import official
import torch
from common import RESULTS, log, store
from official.bed import Difference
from official.taken import check_commit, checkout

from expunge.records.base import read_json
from expunge.records.run import environment

HELPERS = {"bed", "edit_bed", "g_effect", "server_bed", "taken"}
NAMES = sorted(m.name for m in pkgutil.iter_modules(official.__path__) if m.name not in HELPERS)
SEEDS = 3


def comparator(name: str) -> ModuleType:
    return importlib.import_module(f"official.{name}")


def compared(name: str, place: Path, seeds: int) -> dict[str, Any]:
    """The row of a method: the largest differences over seeds."""
    module = comparator(name)
    check_commit(place, module.COMMIT)
    found: dict[str, list[Difference]] = {}
    for seed in range(seeds):
        for one in module.compare(place, seed):
            found.setdefault(one.what, []).append(one)
    differences = [{"what": what, "gradient": max(one.gradient for one in of_seeds),
                    "loss": max((one.loss for one in of_seeds if one.loss is not None), default=None)}
                   for what, of_seeds in found.items()]
    content = (place / module.FILE).read_bytes()
    return {"repository": module.REPOSITORY, "commit": module.COMMIT, "file": module.FILE,
            "sha256": hashlib.sha256(content).hexdigest()[:16], "seeds": list(range(seeds)),
            "differences": differences}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("methods", nargs="*", metavar="METHOD", help=f"one of {', '.join(NAMES)}")
    parser.add_argument("--code", type=Path, help="a checkout, or a folder of checkouts")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--keep", action="store_true", help="write results/official.json")
    parser.add_argument("--list", action="store_true", help="what is compared with what")
    given = parser.parse_args()
    if unknown := set(given.methods) - set(NAMES):
        parser.error(f"no module for {', '.join(sorted(unknown))} in experiments/official/")
    if given.list:
        for name in NAMES:
            module = comparator(name)
            log((name, module.REPOSITORY, module.COMMIT, module.FILE))
        return
    if given.code is None:
        parser.error("--code names the folder of checkouts")
    torch.set_num_threads(1)
    around = environment()  # before anything is written: afterwards the tree is not that of the commit
    for name in given.methods or NAMES:
        place = checkout(given.code.resolve(), comparator(name).REPOSITORY)
        if place is None:
            if given.methods:
                parser.error(f"{given.code} has no checkout of {comparator(name).REPOSITORY}")
            log((name, "left out: no checkout of", comparator(name).REPOSITORY))
            continue
        row = compared(name, place, given.seeds)
        for one in row["differences"]:
            log((f"{name:12}", "loss", "-" if one["loss"] is None else f"{one['loss']:.0e}",
                 f"gradient {one['gradient']:.0e}", one["what"]))
        if given.keep:
            keep(name, row | {"our_commit": around["commit"]}, around)


def keep(name: str, row: dict[str, Any], around: dict[str, Any]) -> None:
    """Put a row into results/official.json; the environment there is that of the last row."""
    path = RESULTS / "official.json"
    kept = read_json(path)["methods"] if path.exists() else {}
    store("official", {"script": "experiments/official.py", "environment": around,
                       "methods": dict(sorted({**kept, name: row}.items()))})


if __name__ == "__main__":
    main()
