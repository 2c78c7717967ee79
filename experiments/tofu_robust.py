"""A retaught model on a fixed TOFU pair (forget10), beside CE-U and NPO: does it forget, and does it come back?

    OMP_NUM_THREADS=1 python experiments/tofu_robust.py --pair FOLDER --work FOLDER [--seeds 0 1 2] [--only NAME ...]
    python experiments/tofu_robust.py --collect --work FOLDER

Needs the TOFU files (--data-dir or EXPUNGE_DATA) and DIR/original, DIR/retrained, DIR/retrained_seed2. Writes
results/tofu_robust.json. The second retrained model, judged like a method, is the noise floor. Rows lie under --work,
so that an interrupted call goes on; `--only` lets several processes share the work.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from common import kept_rows, log, started, store, study_parser
from league_tofu import asked

import expunge
from expunge.console import Reporter
from expunge.records.base import write_json
from expunge.records.run import RunRecord
from expunge.records.score import Audit
from expunge.records.task import Task

RETAUGHT = "distil(teacher='original', likeliest=1, epochs={}) + adamw(lr={})"
RECIPES: dict[str, tuple[str, int]] = {
    "ce_u": ("ce_u + retain_nll(weight=2) + adamw(lr=3e-4)", 10),
    "npo": ("npo + retain_nll(weight=2) + adamw(lr=3e-4)", 10),
    "ssd": ("ssd(alpha=2, lambda_=0.1)", 1),
    "ssd, retaught": (f"ssd(alpha=2, lambda_=0.1) >> {RETAUGHT.format(4, 2e-3)}", 1),
    "ssd more, retaught, npo": (f"ssd(alpha=1.2, lambda_=0.03) >> {RETAUGHT.format(8, 3e-3)} >> "
                                "npo + retain_nll(weight=3) + holdout_level + adamw(lr=8e-5)", 2),
}
"""Name -> recipe, and passes over the forget rows."""
FLOOR = "retrained, second seed"
SUITE = ("forget_quality,forget.probability,forget.rouge_l,retain.probability,mia.min_k,leak_share,quantise,"
         "relearn(at=[16, 48])")


def judge(model: Path, task: Task, pair: Path, seed: int, controls: tuple[str, ...], out: Path | None = None) -> Audit:
    found = expunge.audit(model, task=task, out=out, original=pair / "original", seed=seed, suite=SUITE,
                          retrained=[pair / name for name in controls], overwrite=True, reporter=Reporter(quiet=True))
    assert isinstance(found, Audit) and found.verdict is not None
    return found


def told(found: Audit) -> dict[str, Any]:
    plain = {s.name: s for s in found.scores if s.attack is None}
    kept = plain["retain.probability"]
    assert found.verdict is not None
    return {"outcome": found.verdict.outcome, "headline": found.verdict.leak,
            "scores": {name: {"value": s.value} | dict(s.controls) for name, s in plain.items()},
            "utility": (kept.value or 0.0) / (kept.controls["original"] or 1.0),
            "attacked": {s.attack: {"value": s.value, "excess": s.excess} for s in found.scores
                         if s.attack and s.name == "forget.probability"}}


def one(seed: int, name: str, whole: Task, pair: Path, work: Path) -> None:
    place = work / f"{name.replace(' ', '-').replace(',', '')}-{seed}"
    if (place / "row.json").exists():
        return
    task, row = asked(whole), {"seed": seed, "name": name}
    if name == FLOOR:
        found = judge(pair / "retrained_seed2", task, pair, seed, ("retrained",), place / "audit")
    else:
        recipe, epochs = RECIPES[name]
        record = expunge.forget(pair / "original", task=task, method=recipe, out=place, seed=seed, epochs=epochs,
                                batch_size=16, keep="last", resume=place.exists(), reporter=Reporter(quiet=True))
        assert isinstance(record, RunRecord)
        found = judge(place, task, pair, seed, ("retrained", "retrained_seed2"))
        row |= {"recipe": recipe, "epochs": epochs, "train_s": record.timing["train_s"],
                "cost": record.timing.get("of_retraining")}
    row |= told(found)
    write_json(place / "row.json", row)
    log((seed, name, row["outcome"], row["headline"], row["utility"], row["scores"]["forget_quality"],
         row["scores"]["mia.min_k"], row["attacked"]))


def collect(work: Path) -> None:
    rows = kept_rows(work)
    order = [FLOOR, *RECIPES]
    rows.sort(key=lambda r: (order.index(r["name"]), r["seed"]))
    log((store("tofu_robust", {"task": "tofu:forget10", "suite": SUITE, "rows": rows}), len(rows)))


if __name__ == "__main__":
    parser = study_parser(__doc__)
    parser.add_argument("--pair", type=Path)
    parser.add_argument("--data-dir", type=Path, default=None)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", choices=[FLOOR, *RECIPES], default=[FLOOR, *RECIPES])
    given = started(parser)
    if given.collect:
        collect(given.work)
    else:
        rows_of_tofu = expunge.load_task("tofu:forget10", data_dir=given.data_dir)
        for number in given.seeds:
            for called in given.only:
                if called != FLOOR or number == given.seeds[0]:
                    one(number, called, rows_of_tofu, given.pair, given.work)
