"""Does it come back? Recipes that damage and teach anew, beside plain npo, under relearning.

    python experiments/robust.py --work FOLDER [--worlds 7 8 9] [--minutes 20]
    python experiments/robust.py --work FOLDER --collect

Writes results/robust.json. On small worlds that serve for tuning. npo runs once per world, and every stage behind it
starts from that model, as one recipe would. Rows lie under --work, so that an interrupted call goes on; no new row is
begun after --minutes. Cost is the share of retraining's gradient positions, npo's own included.
"""

from __future__ import annotations

import argparse
import shutil
import time
from pathlib import Path
from typing import Any

import torch
from common import log, store

import expunge
from expunge.attacks.base import AttackContext, View, parse_attack
from expunge.audit.attacks import probe_for
from expunge.console import Reporter
from expunge.demonstration import trained_world
from expunge.errors import ExpungeError
from expunge.metrics.base import Evidence
from expunge.metrics.evaluate import parse_metric
from expunge.metrics.text.matching import contains
from expunge.models.load import load_subject
from expunge.needs import OFFERS
from expunge.records.base import read_json, write_json
from expunge.records.costs import retraining_positions
from expunge.records.observation import Observations
from expunge.records.run import RunRecord
from expunge.records.task import Example, Task
from expunge.training.monitor import Monitor

SIZE = "forget=6,retain=18,holdout=6,neighbours=0"
NPO = "npo + retain_nll(weight=3) + adamw(lr=3e-4, weight_decay=0)"
NPO_EPOCHS, BATCH, TEACHING = 16, 24, " + adamw(lr=3e-3, weight_decay=0)"
BEHIND: dict[str, str] = {
    "shrunk by 0.6": f"shrink_perturb(alpha=0.6) >> distil(epochs=8){TEACHING}",
    "shrunk by 0.8": f"shrink_perturb(alpha=0.8) >> distil(epochs=12){TEACHING}",
    "shrunk by 0.8, retain rows alone": f"shrink_perturb(alpha=0.8) >> distil(epochs=12, data=['retain']){TEACHING}",
    "shrunk by 0.8, own answers too": "shrink_perturb(alpha=0.8) >> distil(epochs=12, "
                                      f"data=['retain', 'background', 'self']){TEACHING}",
    "MLPs shrunk by 0.8": f"shrink_perturb(alpha=0.8, where='mlp') >> distil(epochs=8){TEACHING}",
}
RELEARN = "relearn(steps=48, at=[16])"


def said(subject: Any, rows: list[Example], tokens: int) -> float:
    """Share of greedy answers that hold the bare fact."""
    asked = [row for row in rows if row.short_answer]
    texts = subject.generate([subject.encoder.prompt(row) for row in asked], tokens)
    return sum(contains(text, row.short_answer, row.answer) for (text, _), row in zip(texts, asked, strict=True)
               ) / len(asked)


def likelihoods(subject: Any, task: Task) -> Observations:
    rows = probe_for("likelihood", True).observe(subject, task.probe_rows("forget"), task)
    return Observations({("likelihood", "forget"): tuple(rows)})


def measured(place: Path, task: Task, retrained: Path) -> dict[str, Any]:
    """What a model says as asked and after relearning half of the entities, of the other half."""
    subject, twin = load_subject(place, template=task.template), load_subject(retrained, template=task.template)
    mine, theirs = likelihoods(subject, task), likelihoods(twin, task)
    metric, split = parse_metric("forget_quality")
    quality = metric.score(Evidence(mine, None, (theirs,), OFFERS["text"]), split, resamples=0).value
    reading = Monitor(subject, task, 0)()
    found: dict[str, Any] = {"keyword": said(subject, list(task.forget), task.generation_tokens),
                             "retain_probability": reading["utility"], "forget_probability": reading["forget"],
                             "forget_quality": quality, "relearned": {}}

    def ask(view: View) -> None:
        found["relearned"][view.label] = said(view.subject, list(view.rows("forget")), task.generation_tokens)

    parse_attack(RELEARN).run(subject, AttackContext.of(task), ask)
    return found


def place_of(work: Path, world: int, name: str) -> Path:
    return work / f"{name.replace(' ', '-').replace(',', '')}-{world}"


def one_world(seed: int, work: Path, until: float) -> None:
    task = expunge.load_task(f"authors({SIZE})", seed=seed)
    original, retrained = trained_world(task, "full", seed=seed), trained_world(task, "retain", seed=seed + 1)
    whole = retraining_positions(original, task)
    assert whole is not None
    base = place_of(work, seed, "npo")
    quiet: dict[str, Any] = {"task": task, "seed": seed, "reporter": Reporter(quiet=True), "keep": "last"}

    def row(name: str, recipe: str | None, model: Path, cost: float) -> None:
        place = place_of(work, seed, name)
        if (place / "row.json").exists():
            return
        place.mkdir(exist_ok=True)
        made = {"name": name, "world": seed, "recipe": recipe, "cost": cost} | measured(model, task, retrained)
        write_json(place / "row.json", made)
        log((seed, name, {k: v for k, v in made.items() if k not in ("name", "world", "recipe")}))

    done = expunge.forget(original, method=NPO, out=base, epochs=NPO_EPOCHS, batch_size=8, resume=base.exists(),
                          **quiet)
    assert isinstance(done, RunRecord)
    spent = done.timing["positions"]
    row("npo", NPO, base, spent / whole)
    row("retrained", None, retrained, 1.0)
    for name, recipe in BEHIND.items():
        place = place_of(work, seed, name)
        if (place / "row.json").exists() or time.monotonic() > until:
            continue
        try:
            done = expunge.forget(base, method=recipe, out=place, batch_size=BATCH, resume=place.exists(), **quiet)
        except ExpungeError as problem:
            log((seed, name, problem.what))
            continue
        assert isinstance(done, RunRecord)
        row(name, f"{NPO} >> {recipe}", place, (spent + done.timing["positions"]) / whole)
        shutil.rmtree(place / "stages", ignore_errors=True)


def main(given: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    until = time.monotonic() + 60 * given.minutes
    given.work.mkdir(parents=True, exist_ok=True)
    for seed in given.worlds:
        if time.monotonic() < until:
            one_world(seed, given.work, until)


def collect(work: Path) -> None:
    rows = [read_json(path) for path in sorted(work.glob("*/row.json"))]
    order = ["retrained", "npo", *BEHIND]
    rows.sort(key=lambda r: (order.index(r["name"]), r["world"]))
    log((store("robust", {"size": SIZE, "npo_epochs": NPO_EPOCHS, "attack": RELEARN, "rows": rows}), len(rows)))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--worlds", type=int, nargs="+", default=[7, 8, 9])
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--collect", action="store_true")
    options = parser.parse_args()
    collect(options.work) if options.collect else main(options)
