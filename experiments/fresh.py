"""Does it really forget? `--method auto` on worlds that served for no tuning, judged by the standard suite.

    OMP_NUM_THREADS=1 python experiments/fresh.py --work FOLDER [--worlds 20 21 22 23 24] [--costs 0.5 0.2 0.05]
    python experiments/fresh.py --work FOLDER --collect

Writes results/fresh.json. Each world has an original and two retrained models. The search sees forget, retain and
holdout rows of the world and never a retrained model; then the chosen run is audited beside both. Cost is that of the
chosen recipe, as a share of the gradient positions of retraining; the search itself is told in seconds. Rows lie under
--work, so that an interrupted call goes on.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from common import kept_rows, log, started, store, study_parser

import expunge
from expunge.console import Reporter
from expunge.demonstration import trained_world
from expunge.records.base import write_json
from expunge.records.choice import AUTO, Choice
from expunge.records.run import RunRecord
from expunge.records.score import Audit

WORLD = "authors(forget=10,retain=30,holdout=10,neighbours=2)"
"""Smaller than the world of the demo: five of them, with three models, a search and an audit each, take two hours."""
EPOCHS = {0.5: 6, 0.2: 6, 0.05: 2}
"""Limit of the cost -> passes over the forget rows, of the stages that forget."""
UTILITY, CONTROLS = 0.95, 2
SHOWN = ("forget_quality", "leak_share", "retain.probability", "model_utility", "utility.probability", "forget.keyword",
         "mia.min_k")


def one(seed: int, cost: float, work: Path, budget: str, suite: str) -> None:
    place = work / f"world-{seed}-{cost:g}"
    if (place / "row.json").exists():
        return
    task = expunge.load_task(WORLD, seed=seed)
    original = trained_world(task, "full", seed=seed)
    retrained = [trained_world(task, "retain", seed=seed + i) for i in range(1, CONTROLS + 1)]
    quiet = Reporter(quiet=True)
    record = expunge.forget(original, task=task, method=AUTO, out=place, seed=seed, epochs=EPOCHS[cost], batch_size=8,
                            resume=place.exists(), keep="last", reporter=quiet,
                            against="weights", utility=UTILITY, cost=cost, budget=budget)
    assert isinstance(record, RunRecord)
    made = Choice.read(place / AUTO)
    pick = made.pick
    assert pick is not None
    log((seed, cost, pick.recipe, pick.kept, pick.worst, made.predicted, round(made.spent_s)))
    found = expunge.audit(place, task=task, original=original, retrained=retrained, suite=suite, seed=seed,
                          resume=(place / "audit.json").exists(), reporter=quiet)
    assert isinstance(found, Audit) and found.verdict is not None
    plain = {s.name: s for s in found.scores if s.attack is None and s.name in SHOWN}
    row: dict[str, Any] = {
        "world": seed, "limit": cost, "recipe": record.recipe, "cost": record.timing.get("of_retraining"),
        "search_s": round(made.spent_s), "retraining_s": made.retraining_s, "trials": len(made.trials),
        "within_limits": made.within_limits, "predicted": made.predicted, "outcome": found.verdict.outcome,
        "headline": found.verdict.leak, "scope": found.verdict.scope.model_dump() if found.verdict.scope else None,
        "scores": {name: {"value": s.value} | dict(s.controls) for name, s in plain.items()}}
    kept = row["scores"]["retain.probability"]
    row["utility"] = kept["value"] / kept["original"]
    write_json(place / "row.json", row)
    log((seed, cost, row["outcome"], {k: row[k] for k in ("cost", "utility", "predicted", "headline")},
         row["scores"]["forget_quality"]))


def collect(work: Path, suite: str) -> None:
    rows = kept_rows(work)
    rows.sort(key=lambda r: (-r["limit"], r["world"]))
    log((store("fresh", {"world": WORLD, "utility": UTILITY, "controls": CONTROLS, "suite": suite, "rows": rows}),
         len(rows)))


if __name__ == "__main__":
    parser = study_parser(__doc__)
    parser.add_argument("--worlds", type=int, nargs="+", default=[20, 21, 22, 23, 24])
    parser.add_argument("--costs", type=float, nargs="+", default=list(EPOCHS), choices=list(EPOCHS))
    parser.add_argument("--budget", default="12m", help="of each search")
    parser.add_argument("--suite", default="standard")
    given = started(parser)
    if given.collect:
        collect(given.work, given.suite)
    else:
        for cost in given.costs:
            for seed in given.worlds:
                one(seed, cost, given.work, given.budget, given.suite)
