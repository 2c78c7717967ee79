"""Is a search over recipes better than one recipe well tuned? Methods of the league on the fresh worlds.

    OMP_NUM_THREADS=1 python experiments/against_league.py --work FOLDER [--worlds 20 21 22]
    python experiments/against_league.py --work FOLDER --collect

Needs results/fresh.json. Writes results/against_league.json. Every method is tuned by `expunge sweep` in TRIALS trials.
Those of an objective cost more gradients than the trials of a search of `auto` within a fifth of retraining. All are
scored beside the retrained model, which `auto` never sees: the comparison favours the single methods. The score is the
one that the league tunes by. Rows lie under --work, so that an interrupted call goes on.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from cells import results
from common import kept_rows, log, started, store, study_parser

import expunge
from expunge.console import Reporter
from expunge.demonstration import trained_world
from expunge.records.base import write_json
from expunge.tuning import FLOOR, merit

METHODS = ("npo + retain_nll", "simnpo + retain_nll", "ce_u + retain_nll", "tnpo + retain_nll", "ssd")
"""Of the league: the usual ones, and the two that come first in it."""
EPOCHS, BATCH, TRIALS = 6, 8, 6


def of_auto(row: dict[str, Any]) -> float:
    """The score of a run that `auto` chose, from what the audit said."""
    quality, kept = row["scores"]["forget_quality"]["value"], row["scores"]["model_utility"]
    return merit(math.log10(max(quality, FLOOR)), kept["value"] / kept["original"])


def one(seed: int, method: str, size: str, work: Path) -> None:
    place = work / f"{method.replace(' ', '')}-{seed}"
    if (place / "row.json").exists():
        return
    task = expunge.load_task(size, seed=seed)
    original, retrained = trained_world(task, "full", seed=seed), trained_world(task, "retain", seed=seed + 1)
    done = expunge.sweep(method, out=place / "sweep", task=task, model=original, retrained=[retrained], trials=TRIALS,
                         resume=(place / "sweep").exists(), seed=seed, epochs=EPOCHS, batch_size=BATCH,
                         reporter=Reporter(quiet=True))
    best = done.best()
    row: dict[str, Any] = {"world": seed, "method": method, "trials": len(done.trials)}
    if best is not None:
        row |= {"recipe": best.recipe, "lr": best.params.get("lr"), "quality": best.quality, "utility": best.utility,
                "merit": merit(best.quality or math.log10(FLOOR), best.utility or 0.0)}
    write_json(place / "row.json", row)
    log(tuple(row.values()))


def collect(work: Path) -> None:
    rows = kept_rows(work)
    rows.sort(key=lambda r: (METHODS.index(r["method"]), r["world"]))
    worlds = {row["world"] for row in rows}
    auto = [{"limit": row["limit"], "world": row["world"], "recipe": row["recipe"], "trials": row["trials"],
             "merit": of_auto(row)} for row in results("fresh")["rows"] if row["world"] in worlds]
    log((store("against_league", {"epochs": EPOCHS, "rows": rows, "auto": auto}), len(rows)))


if __name__ == "__main__":
    parser = study_parser(__doc__)
    parser.add_argument("--worlds", type=int, nargs="+", default=[20, 21, 22])
    given = started(parser)
    if given.collect:
        collect(given.work)
    else:
        for world in given.worlds:
            for called in METHODS:
                one(world, called, results("fresh")["world"], given.work)
