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
from expunge.console import Reporter
from expunge.demonstration import trained_world
from expunge.errors import ExpungeError
from expunge.records.base import read_json, write_json
from expunge.records.costs import retraining_positions
from expunge.records.run import RunRecord
from expunge.records.score import Audit

SIZE = "forget=6,retain=18,holdout=6,neighbours=0"
NPO = "npo + retain_nll(weight=3) + adamw(lr=3e-4, weight_decay=0)"
NPO_EPOCHS, BATCH, TEACHING = 16, 24, " + adamw(lr=3e-3, weight_decay=0)"
SHRINK = {share: f"shrink_perturb(alpha={share})" for share in (0.6, 0.8)}
BEHIND: dict[str, str] = {
    "shrunk by 0.6": f"{SHRINK[0.6]} >> distil(epochs=8){TEACHING}",
    "shrunk by 0.8": f"{SHRINK[0.8]} >> distil(epochs=12){TEACHING}",
    "shrunk by 0.8, retain rows alone": f"{SHRINK[0.8]} >> distil(epochs=12, data=['retain']){TEACHING}",
    "shrunk by 0.8, its own answers too": f"{SHRINK[0.8]} >> distil(epochs=12, data=['retain', 'background', 'self'])"
                                          f"{TEACHING}",
    "MLPs shrunk by 0.8": f"shrink_perturb(alpha=0.8, where='mlp') >> distil(epochs=8){TEACHING}",
}
SUITE = ",".join(("forget_quality", "model_utility", "leak_share", "forget.probability", "retain.probability",
                  "forget.keyword", "forget.accuracy", "relearn(steps=48, at=[16])"))


def place_of(work: Path, world: int, name: str) -> Path:
    return work / f"{name.replace(' ', '-').replace(',', '')}-{world}"


def measured(subject: Path, original: Path, retrained: list[Path], task: Any, row: dict[str, Any],
             out: Path) -> dict[str, Any]:
    """The row with what an audit says of the model."""
    found = expunge.audit(subject, task=task, original=original, retrained=retrained, suite=SUITE, resamples=100,
                          out=out, overwrite=True, reporter=Reporter(quiet=True))
    assert isinstance(found, Audit)
    return row | {"verdict": found.verdict.outcome if found.verdict else None, "scores": {
        f"{s.name} @ {s.attack}" if s.attack else s.name: {"value": s.value, **{k: s.controls.get(k) for k in (
            "original", "retrained")}} for s in found.scores}}


def world(seed: int) -> tuple[Any, Path, list[Path]]:
    task = expunge.load_task(f"authors({SIZE})", seed=seed)
    return task, trained_world(task, "full", seed=seed), [trained_world(task, "retain", seed=seed + 1)]


def one_world(seed: int, work: Path, until: float) -> None:
    task, original, retrained = world(seed)
    whole = retraining_positions(original, task)
    assert whole is not None
    base = place_of(work, seed, "npo")
    quiet: dict[str, Any] = {"task": task, "seed": seed, "reporter": Reporter(quiet=True), "keep": "last"}

    def row(name: str, recipe: str, subject: Path, positions: float) -> None:
        made = {"name": name, "world": seed, "recipe": recipe, "cost": positions / whole}
        write_json(subject / "row.json", measured(subject, original, retrained, task, made, subject / "audit"))
        log((seed, name, made["cost"]))

    if not (base / "row.json").exists():
        done = expunge.forget(original, method=NPO, out=base, epochs=NPO_EPOCHS, batch_size=8, resume=base.exists(),
                              **quiet)
        assert isinstance(done, RunRecord)
        row("npo", NPO, base, done.timing["positions"])
    spent = RunRecord.read(base / "record.json").timing["positions"]
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
        row(name, f"{NPO} >> {recipe}", place, spent + done.timing["positions"])
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
    order = ["npo", *BEHIND]
    rows.sort(key=lambda r: (order.index(r["name"]), r["world"]))
    log((store("robust", {"size": SIZE, "npo_epochs": NPO_EPOCHS, "rows": rows}), len(rows)))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--worlds", type=int, nargs="+", default=[7, 8, 9])
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--collect", action="store_true")
    options = parser.parse_args()
    collect(options.work) if options.collect else main(options)
