"""Is a search over recipes better than one recipe tuned for as long? Methods of the league on the fresh worlds.

    OMP_NUM_THREADS=1 python experiments/against_league.py --work FOLDER [--worlds 20 21 22] [--limit 0.2]
    python experiments/against_league.py --work FOLDER --collect

Needs results/fresh.json. Writes results/against_league.json. Every method is tuned by `expunge sweep`, until it has
taken as long as the search of `auto` on that world. Its trials are scored beside the retrained model, which `auto`
never sees: the comparison favours the single methods. The score is the one that the league tunes by. Rows lie under
--work, so that an interrupted call goes on.
"""

from __future__ import annotations

import math
import time
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
EPOCHS, BATCH, MOST = 6, 8, 30


def of_auto(row: dict[str, Any]) -> float:
    """The score of a run that `auto` chose, from what the audit said."""
    quality, kept = row["scores"]["forget_quality"]["value"], row["scores"]["model_utility"]
    return merit(math.log10(max(quality, FLOOR)), kept["value"] / kept["original"])


def one(found: dict[str, Any], method: str, size: str, work: Path) -> None:
    seed, place = found["world"], work / f"{method.replace(' ', '')}-{found['world']}"
    if (place / "row.json").exists():
        return
    task = expunge.load_task(size, seed=seed)
    original, retrained = trained_world(task, "full", seed=seed), trained_world(task, "retain", seed=seed + 1)
    began, done = time.monotonic(), None
    while done is None or (time.monotonic() - began < found["search_s"] and len(done.trials) < MOST):
        done = expunge.sweep(method, out=place / "sweep", task=task, model=original, retrained=[retrained],
                             trials=1 if done is None else len(done.trials) + 1, resume=done is not None,
                             overwrite=done is None, seed=seed, epochs=EPOCHS, batch_size=BATCH,
                             reporter=Reporter(quiet=True))
    best = done.best()
    row: dict[str, Any] = {"world": seed, "method": method, "trials": len(done.trials),
                           "seconds": round(time.monotonic() - began)}
    if best is not None:
        row |= {"recipe": best.recipe, "lr": best.params.get("lr"), "quality": best.quality, "utility": best.utility,
                "merit": merit(best.quality or math.log10(FLOOR), best.utility or 0.0)}
    write_json(place / "row.json", row)
    log(tuple(row.values()))


def fresh(limit: float) -> list[dict[str, Any]]:
    return [row for row in results("fresh")["rows"] if row["limit"] == limit]


def collect(work: Path, limit: float) -> None:
    rows = kept_rows(work)
    rows.sort(key=lambda r: (METHODS.index(r["method"]), r["world"]))
    worlds = {row["world"] for row in rows}
    auto = [{"world": row["world"], "recipe": row["recipe"], "trials": row["trials"], "seconds": row["search_s"],
             "merit": of_auto(row)} for row in fresh(limit) if row["world"] in worlds]
    log((store("against_league", {"limit": limit, "epochs": EPOCHS, "rows": rows, "auto": auto}), len(rows)))


if __name__ == "__main__":
    parser = study_parser(__doc__)
    parser.add_argument("--worlds", type=int, nargs="+", default=[20, 21, 22])
    parser.add_argument("--limit", type=float, default=0.2, help="of the cost, of the searches to compare with")
    given = started(parser)
    if given.collect:
        collect(given.work, given.limit)
    else:
        for known in fresh(given.limit):
            for called in METHODS:
                if known["world"] in given.worlds:
                    one(known, called, results("fresh")["world"], given.work)
