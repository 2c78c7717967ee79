"""Does unlearning survive relearning, in the published order? RepSelect and UNDO beside NPO, SimNPO and RMU.

    OMP_NUM_THREADS=1 python experiments/ordering.py --work FOLDER [--worlds 7] [--chosen-on 7]
    python experiments/ordering.py --work FOLDER --collect

Writes results/ordering.json and docs/robustness.svg. Every method has four to six settings on a small world, beside two
retrained models. Of each method that setting counts which leaves least as asked while it keeps UTILITY of the retain
probability: the choice does not see the attack, which the published comparison of RepSelect chose by. With --chosen-on
other worlds run only the settings that were chosen on that world. Rows lie under --work, so that an interrupted call
goes on.
"""

from __future__ import annotations

from pathlib import Path
from statistics import median
from typing import Any

from common import RESULTS, kept_rows, log, started, store, study_parser

import expunge
from expunge.console import Reporter
from expunge.demonstration import trained_world
from expunge.records.base import write_json
from expunge.records.run import RunRecord
from expunge.records.score import Audit
from expunge.records.sweep import unbeaten
from expunge.report.charts import to_file_svg
from expunge.report.several import front_chart

SIZE = "forget=6,retain=18,holdout=6,neighbours=0"
EPOCHS, BATCH, UTILITY = 8, 8, 0.9
NPO = "npo + retain_nll(weight=3) + adamw(lr=1.5e-4, weight_decay=0)"
TAUGHT = "adamw(lr=3e-3, weight_decay=0)"
METHODS: dict[str, tuple[str, tuple[float, ...]]] = {
    "npo": ("npo + retain_nll(weight=3) + adamw(lr={}, weight_decay=0)", (7.5e-5, 1.5e-4, 3e-4, 6e-4)),
    "simnpo": ("simnpo + retain_nll(weight=3) + adamw(lr={}, weight_decay=0)",
               (7.5e-5, 1.5e-4, 3e-4, 6e-4, 1.2e-3, 2.4e-3)),
    "rmu": ("rmu(coefficient=97, alpha=0.165) + adamw(lr={}, weight_decay=0)", (6e-5, 2e-4, 6e-4, 2e-3, 6e-3, 2e-2)),
    "repselect": ("repselect(adversary_lr=0.1, budget={})", (0.01, 0.1, 0.3, 0.55, 1.0)),
    "undo": (f"{NPO} >> shrink_perturb(alpha={{}}, beta=0.1) >> distil(epochs=12) + {TAUGHT}", (0.4, 0.6, 0.8, 0.9)),
    "undo, first choices": (f"{NPO} >> shrink_perturb(alpha={{}}, beta=0.1) >> distil(epochs=12, likeliest=1) + "
                            f"{TAUGHT}", (0.4, 0.6, 0.8, 0.9)),
    "ssd, first choices": (f"ssd(alpha=3.16, lambda_={{}}) >> distil(teacher='original', epochs=6, likeliest=1) + "
                           f"{TAUGHT}", (0.6, 0.3, 0.2, 0.1)),
}
"""Name -> recipe, and what is put in its braces."""
SUITE = "forget.probability,retain.probability,leak_share,relearn(at=[16, 48])"


def one(seed: int, name: str, value: float, work: Path) -> None:
    place = work / f"{name.replace(' ', '-').replace(',', '')}-{value:g}-{seed}"
    if (place / "row.json").exists():
        return
    task = expunge.load_task(f"authors({SIZE})", seed=seed)
    original = trained_world(task, "full", seed=seed)
    retrained = [trained_world(task, "retain", seed=seed + i) for i in (1, 2)]
    quiet, recipe = Reporter(quiet=True), METHODS[name][0].format(value)
    record = expunge.forget(original, task=task, method=recipe, out=place, seed=seed, epochs=EPOCHS, batch_size=BATCH,
                            keep="last", resume=place.exists(), reporter=quiet)
    found = expunge.audit(place, task=task, original=original, retrained=retrained, suite=SUITE, seed=seed,
                          resamples=0, overwrite=(place / "audit.json").exists(), reporter=quiet)
    assert isinstance(record, RunRecord) and isinstance(found, Audit) and found.verdict is not None
    plain = {s.name: s for s in found.scores if s.attack is None}
    kept, asked = plain["retain.probability"], plain["forget.probability"]
    after = {s.attack: s for s in found.scores if s.attack and s.name == "forget.probability"}
    row: dict[str, Any] = {
        "world": seed, "method": name, "value": value, "recipe": recipe, "cost": record.timing.get("of_retraining"),
        "utility": (kept.value or 0.0) / (kept.controls["original"] or 1.0),
        "asked": (asked.value or 0.0) - (asked.controls["retrained"] or 0.0),
        "leak_share": plain["leak_share"].value, "outcome": found.verdict.outcome,
        "relearned": {label: {"value": s.value, "excess": s.excess} for label, s in after.items()}}
    write_json(place / "row.json", row)
    log(tuple(row.values()))


def chosen(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Of one method on one world: least left as asked among those that keep the utility, else the most useful."""
    useful = [row for row in rows if row["utility"] >= UTILITY]
    return min(useful, key=lambda r: max(r["asked"], 0.0)) if useful else max(rows, key=lambda r: r["utility"])


def by_method(rows: list[dict[str, Any]]) -> dict[tuple[str, int], list[dict[str, Any]]]:
    """(method, world) -> its rows."""
    groups: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["method"], row["world"]), []).append(row)
    return groups


def collect(work: Path) -> None:
    rows = kept_rows(work)
    rows.sort(key=lambda r: (list(METHODS).index(r["method"]), r["world"], r["value"]))
    groups = by_method(rows)
    best = [chosen(group) for group in groups.values()]
    log((store("ordering", {"size": SIZE, "epochs": EPOCHS, "suite": SUITE, "utility": UTILITY, "rows": rows,
                            "chosen": best}), len(rows)))
    (RESULTS.parent / "docs/robustness.svg").write_text(to_file_svg(picture(best)))


def picture(best: list[dict[str, Any]]) -> dict[str, Any]:
    """What relearning brings back against what the recipe costs: a point for each method, by median over worlds."""
    points = []
    for name in dict.fromkeys(row["method"] for row in best):
        mine = [row for row in best if row["method"] == name and row["cost"] is not None]
        if mine:
            left, kept = median(r["relearned"]["relearn"]["excess"] for r in mine), median(r["utility"] for r in mine)
            points.append((f"{name} ({kept:.2f})", median(row["cost"] for row in mine), left))
    front = [label for label, _, _ in unbeaten(points, lambda p: (-p[1], -p[2]))]
    drawn = front_chart(points, front, "gradients of the recipe, as a share of retraining (in brackets: utility kept)",
                        "forget probability after relearning, beyond the retrained model's", what="method")
    for layer in drawn["layer"]:  # both from 0, with room for the labels
        layer["encoding"]["x"]["scale"], layer["encoding"]["y"]["scale"] = {"domain": [0, 0.6]}, {"domain": [0, 1]}
    return drawn


if __name__ == "__main__":
    parser = study_parser(__doc__)
    parser.add_argument("--worlds", type=int, nargs="+", default=[7])
    parser.add_argument("--chosen-on", type=int, default=None, metavar="WORLD",
                        help="run only the settings that were chosen on this world")
    given = started(parser)
    if given.collect:
        collect(given.work)
    else:
        settings = [(called, value) for called, (_, values) in METHODS.items() for value in values]
        if given.chosen_on is not None:
            known = by_method([row for row in kept_rows(given.work) if row["world"] == given.chosen_on])
            settings = [(best["method"], best["value"]) for best in map(chosen, known.values())]
        for world in given.worlds:
            for called, setting in settings:
                one(world, called, setting, given.work)
