"""Which recipe should the demo run? Candidates on its world, under the quick suite, with one control as in the demo.

    OMP_NUM_THREADS=1 python experiments/demo_recipe.py --work FOLDER [--seeds 0 1 2] [--only NAME ...]
    python experiments/demo_recipe.py --work FOLDER --collect

Writes results/demo_recipe.json. Seeds are worlds; their models are trained once and kept. Rows lie under --work, so
that an interrupted call goes on.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from common import kept_rows, log, started, store, study_parser

import expunge
from expunge.console import Reporter
from expunge.demonstration import trained_world
from expunge.records.base import write_json
from expunge.records.run import RunRecord
from expunge.records.score import Audit

NPO = "npo + retain_nll(weight=3) + adamw(lr={}, weight_decay=0)"
TEACHING = "distil(teacher='original', likeliest=1, epochs={}) + adamw(lr=3e-3)"
DAMPENED = f"ssd(alpha=1.2, lambda_=0.03) >> {TEACHING}"
CANDIDATES: dict[str, tuple[str, int]] = {
    "npo": (NPO.format("1.5e-4"), 32),
    "shrunk, retaught": (f"shrink_perturb(alpha=0.8, beta=0.3) >> {TEACHING.format(13)}", 1),
    "ssd, retaught for 6 passes": (DAMPENED.format(6), 1),
    "ssd, retaught for 12 passes": (DAMPENED.format(12), 1),
    "ssd, retaught for 8 passes, npo": (f"{DAMPENED.format(8)} >> holdout_level + {NPO.format('4e-4')}", 2),
    "ssd, retaught for 10 passes, npo": (f"{DAMPENED.format(10)} >> holdout_level + {NPO.format('4e-4')}", 2),
}
"""Name -> recipe, and passes over the forget rows."""
SUITE = "quick,forget_quality,leak_share,forget.keyword,forget.probability,retain.probability"
SHOWN = ("forget_quality", "leak_share", "forget.keyword", "forget.probability", "retain.probability")


def one(seed: int, name: str, work: Path) -> None:
    place, (recipe, epochs) = work / f"{name.replace(' ', '-')}-{seed}", CANDIDATES[name]
    if (place / "row.json").exists():
        return
    task = expunge.load_task("authors", seed=seed)
    original, retrained = trained_world(task, "full", seed=seed), trained_world(task, "retain", seed=seed + 1)
    quiet = Reporter(quiet=True)
    record = expunge.forget(original, task=task, method=recipe, out=place, seed=seed, epochs=epochs, batch_size=8,
                            keep="last", resume=place.exists(), reporter=quiet)
    found = expunge.audit(place, task=task, original=original, retrained=[retrained], suite=SUITE, seed=seed,
                          overwrite=(place / "audit.json").exists(), reporter=quiet)
    assert isinstance(record, RunRecord) and isinstance(found, Audit) and found.verdict is not None
    plain = {s.name: s for s in found.scores if s.attack is None}
    kept = plain["retain.probability"]
    again = next((s for s in found.scores if s.name == "forget.probability" and str(s.attack).startswith("relearn")),
                 None)
    row: dict[str, Any] = {
        "seed": seed, "name": name, "recipe": recipe, "cost": record.timing.get("of_retraining"),
        "train_s": record.timing["train_s"], "outcome": found.verdict.outcome, "headline": found.verdict.leak,
        "scores": {key: plain[key].value for key in SHOWN},
        "utility": (kept.value or 0.0) / (kept.controls["original"] or 1.0),
        "relearned": again.excess if again else None}
    write_json(place / "row.json", row)
    log(tuple(row.values()))


def collect(work: Path) -> None:
    rows = kept_rows(work)
    rows.sort(key=lambda r: (list(CANDIDATES).index(r["name"]), r["seed"]))
    log((store("demo_recipe", {"task": "authors", "suite": SUITE, "controls": 1, "rows": rows}), len(rows)))


if __name__ == "__main__":
    parser = study_parser(__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", choices=list(CANDIDATES), default=list(CANDIDATES))
    given = started(parser)
    if given.collect:
        collect(given.work)
    else:
        for world in given.seeds:
            for called in given.only:
                one(world, called, given.work)
