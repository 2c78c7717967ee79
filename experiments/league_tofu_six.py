"""The ten best of the league of every method on a fixed TOFU pair (forget10), six epochs at two rates each.

    OMP_NUM_THREADS=1 python experiments/league_tofu_six.py --pair FOLDER --work FOLDER [--data-dir FOLDER] [--part 1/2]
    python experiments/league_tofu_six.py --collect --work FOLDER

Needs results/league_all.json, the TOFU files and DIR/original, DIR/retrained, DIR/retrained_seed2. Writes
results/league_tofu_six.json. A method without a rate keeps its option `alpha`, and takes a third of it in its second
run. What a stage teaches anew is left out: results/tofu_robust.json has it, at twenty times the cost.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path
from typing import Any

from cells import results
from common import kept_rows, log, measure, started, store, study_parser
from league import slug
from league_tofu import asked, at_rate

import expunge
from expunge.records.base import write_json
from expunge.records.task import Task
from expunge.report.bench import penalty

TOP, EPOCHS, BATCH = 10, 6, 8
RATES, FACTORS = (3e-4, 1e-3), (1.0, 1 / 3)
SUITE = "forget_quality,forget.probability,forget.rouge_l,retain.probability,leak_share,quantise"


def ten_best() -> list[dict[str, Any]]:
    """By the median rank over three worlds; a recipe of one stage."""
    ranked = []
    for row in results("league_all")["rows"]:
        worlds = [w for w in row.get("worlds", ()) if "scores" in w]
        if len(worlds) >= 3 and ">>" not in row["recipe"]:
            of_worlds = [-penalty(w["scores"]["leak_share"]["value"], w["kept"]) for w in worlds]
            ranked.append((statistics.median(of_worlds), row))
    ranked.sort(key=lambda found: -found[0])
    return [row for _, row in ranked[:TOP]]


def settings(row: dict[str, Any]) -> list[tuple[str, float | None]]:
    """Recipe and rate of each of the two runs."""
    if row["lr"] is not None:
        return [(row["recipe"], lr) for lr in RATES]
    return [at_rate(row, factor) for factor in FACTORS]


def one(row: dict[str, Any], number: int, given: argparse.Namespace, task: Task) -> None:
    place = given.work / f"{slug(row['name'])}-{number}"
    if (place / "row.json").exists():
        return
    recipe, lr = settings(row)[number]
    pair = given.pair
    steps = EPOCHS * len(task.forget) // BATCH  # the epochs of some methods walk other rows
    found = measure(pair / "original", task, recipe, retrained=[pair / "retrained", pair / "retrained_seed2"], seed=0,
                    suite=SUITE, resamples=200, lr=lr, keep="last", batch_size=BATCH, steps=steps)
    if found["scores"]:
        original = found["controls"]["retain.probability"]["original"]
        found["kept"] = found["scores"]["retain.probability"] / original
        found["rank"] = -penalty(found["scores"]["leak_share"], found["kept"])
    place.mkdir(parents=True, exist_ok=True)
    write_json(place / "row.json", found | {"name": row["name"], "trial": number})
    log((row["name"], recipe, lr, found.get("failed"), found.get("kept"), found["scores"]))


def collect(work: Path) -> None:
    rows = kept_rows(work)
    log((store("league_tofu_six", {"task": "tofu:forget10", "epochs": EPOCHS, "batch_size": BATCH, "rates": RATES,
                                   "suite": SUITE, "rows": rows}), len(rows)))


if __name__ == "__main__":
    parser = study_parser(__doc__)
    parser.add_argument("--pair", type=Path)
    parser.add_argument("--data-dir", type=Path, default=None)
    parser.add_argument("--part", default="1/1", help="which of how many processes this is")
    parsed = started(parser)
    if parsed.collect:
        collect(parsed.work)
    else:
        if parsed.pair is None:
            parser.error("--pair says where the models are")
        rows_of_tofu = asked(expunge.load_task("tofu:forget10", data_dir=parsed.data_dir))
        part, parts = map(int, parsed.part.split("/"))
        for run in range(2):
            for method in ten_best()[part - 1:: parts]:
                one(method, run, parsed, rows_of_tofu)
