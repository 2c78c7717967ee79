"""TOFU on a real model: SmolLM2-135M-Instruct learns six made-up authors and forgets two of them.

    OMP_NUM_THREADS=1 python experiments/real_tofu.py --work FOLDER --data FOLDER [--seeds 0 1] [--recipes NAME ...]
    python experiments/real_tofu.py --work FOLDER --collect

Writes results/real_tofu.json. The original learns 120 rows, the retrained model the 80 of the four authors that stay;
both are made once, on one core, and kept under --work. Rows lie there too, so that an interrupted call goes on.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from common import kept_rows, log, started, store, study_parser
from real_rows import plain_model
from real_runs import busy, forgotten

import expunge
from expunge.console import Reporter
from expunge.records.base import read_json, write_json
from expunge.records.task import Task

KEPT, PROBES = 4, 40
"""Authors that stay, of twenty rows each; and rows of each set that an audit asks."""
TRAINING = {"epochs": 5, "lr": 1e-4, "batch_size": 4}
TAUGHT = "distil(teacher='original', likeliest=1, epochs=3) + adamw(lr=1e-4)"
RECIPES: dict[str, tuple[str, float]] = {
    "npo": ("npo(beta=0.1) + retain_nll(weight=2) + adamw(lr=2e-5)", 4),
    "ce_u": ("ce_u + retain_nll(weight=2) + adamw(lr=2e-5)", 4),
    "ssd, retaught": (f"ssd(alpha=1.5, lambda_=0.05) >> {TAUGHT}", 1),
}
"""Name -> recipe, and passes over the forget rows."""
SUITE = ("leak_share,forget_quality,forget.probability,forget.rouge_l,retain.probability,mia.min_k,"
         "paraphrase(count=1),quantise,relearn(steps=16, batch_size=4)")


def task_of(data: Path) -> Task:
    """The two authors of forget01; four of the authors that all models of TOFU keep; holdout rows never learned."""
    whole = expunge.load_task("tofu:forget01", data_dir=data)
    authors = list(dict.fromkeys(row.entity for row in whole.retain))[:KEPT]
    mine = tuple(row for row in whole.retain if row.entity in authors)
    asked = tuple(row for row in whole.probe_rows("retain") if row.entity in authors)
    return whole.model_copy(update={
        "name": "real_tofu", "retain": mine, "utility": (), "holdout": whole.holdout[:PROBES], "generation_tokens": 48,
        "probes": {"forget": whole.probe_rows("forget")[:PROBES], "retain": asked[:: max(len(asked) // PROBES, 1)]}})


def twin(task: Task, split: str, work: Path) -> Path:
    """A model that has learned all rows (`full`) or those that stay (`retain`)."""
    place = work / split
    if not (place / "seconds.json").exists():
        begun = busy()
        expunge.train(plain_model(work), task=task, out=place, split=split, resume=place.exists(),
                      reporter=Reporter(quiet=True), **TRAINING)
        write_json(place / "seconds.json", {"cpu_s": busy() - begun})
    return place


def one(name: str, seed: int, task: Task, work: Path) -> None:
    place = work / f"tofu-{name.replace(' ', '-').replace(',', '')}-{seed}"
    if (place / "row.json").exists():
        return
    original, retrained = (twin(task, split, work) for split in ("full", "retain"))
    recipe, epochs = RECIPES[name]
    record, found, spent = forgotten(place, original, task, recipe, seed=seed, suite=SUITE, retrained=[retrained],
                                     epochs=epochs)
    assert found.verdict is not None
    plain = {s.name: s for s in found.scores if s.attack is None}
    row: dict[str, Any] = {
        "name": name, "seed": seed, "recipe": recipe, "epochs": epochs, "outcome": found.verdict.outcome,
        "headline": found.verdict.leak, "cost": record.timing.get("of_retraining"),
        "forget_cpu_s": spent,
        "scores": {key: {"value": s.value, "n": s.n} | dict(s.controls) for key, s in plain.items()},
        "attacks": {f"{s.attack}: {s.name}": {"value": s.value, "before": s.before, "excess": s.excess}
                    for s in found.scores if s.attack and s.value is not None}}
    write_json(place / "row.json", row)
    log((name, seed, row["outcome"], row["headline"], round(row["forget_cpu_s"])))


def collect(work: Path) -> None:
    rows = [row for row in kept_rows(work) if row.get("name") in RECIPES and "headline" in row]
    rows.sort(key=lambda r: (list(RECIPES).index(r["name"]), r["seed"]))
    spent = {split: read_json(work / split / "seconds.json")["cpu_s"] for split in ("full", "retain")}
    log((store("real_tofu", {"authors": {"kept": KEPT, "forgotten": 2}, "training": TRAINING, "training_cpu_s": spent,
                             "suite": SUITE, "rows": rows}), len(rows)))


if __name__ == "__main__":
    parser = study_parser(__doc__)
    parser.add_argument("--data", type=Path, help="folder with the files of TOFU")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--recipes", nargs="+", default=list(RECIPES), choices=list(RECIPES))
    given = started(parser)
    if given.collect:
        collect(given.work)
    else:
        if given.data is None:
            parser.error("--data says where TOFU is")
        made = task_of(given.data)
        for number in given.seeds:
            for called in given.recipes:
                one(called, number, made, given.work)
