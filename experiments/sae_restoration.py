"""Does restoring the original's latents tell a suppressed model from one that never saw the facts?

    OMP_NUM_THREADS=1 python experiments/sae_restoration.py --work FOLDER [--worlds 0 1 2]
    python experiments/sae_restoration.py --work FOLDER --collect

Writes results/sae_restoration.json. In each small world `rmu` suppresses the forget facts; beside it stand a model that
was retrained from another initialisation and one from that of the original, which is the stricter control. The audit
tells them apart where the interval of what rmu gains by restoration lies above those of both. Rows lie under --work, so
that an interrupted call goes on.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from common import kept_rows, log, started, store, study_parser

import expunge
from expunge.console import Reporter
from expunge.demonstration import trained_world
from expunge.metrics.base import Evidence
from expunge.metrics.sae_restoration import SAERestoration
from expunge.models.load import load_subject
from expunge.probes.latents import STRENGTHS
from expunge.probes.restoration import Restoration
from expunge.records.base import write_json
from expunge.records.observation import Observations

SIZE = "forget=6,retain=18,holdout=6,neighbours=0"
RECIPE, EPOCHS, BATCH = "rmu(coefficient=97, alpha=10) + adamw(lr=2e-3, weight_decay=0)", 20, 8
WAYS = ("plain", "original", "ceiling", "rebuilt", "experts", "random")
RETAIN = 60
"""Retain rows that are asked."""


def one(seed: int, work: Path) -> None:
    place = work / f"world-{seed}"
    if (place / "row.json").exists():
        return
    task = expunge.load_task(f"authors({SIZE})", seed=seed)
    models = {"original": trained_world(task, "full", seed=seed),
              "retrained, other start": trained_world(task, "retain", seed=seed + 1),
              "retrained, same start": trained_world(task, "retain", seed=seed), "rmu": place / "rmu"}
    expunge.forget(models["original"], task=task, method=RECIPE, out=models["rmu"], seed=seed, epochs=EPOCHS,
                   batch_size=BATCH, keep="last", resume=models["rmu"].exists(), reporter=Reporter(quiet=True))
    original, probe = load_subject(models["original"]), Restoration()
    row: dict[str, Any] = {"world": seed, "block": probe.chosen_block(len(original.blocks)), "models": {}}
    for name, path in models.items():
        found: dict[str, Any] = {}
        for split in ("forget", "retain"):
            asked = [e for e in task.split(split) if e.short_answer][:None if split == "forget" else RETAIN]
            rows = probe.observe(load_subject(path), asked, task, partner=original)
            found[split] = {way: float(np.exp([r[way] for r in rows]).mean()) for way in WAYS}
            found[split]["all"] = [float(np.exp([r["all"][i] for r in rows]).mean()) for i in range(len(STRENGTHS))]
            found[split]["explained"] = float(np.mean([r["explained"] for r in rows]))
            evidence = Evidence(Observations({("restoration", split): tuple(rows)}))
            for read in ("probability", "gain"):
                score = SAERestoration(read=read).score(evidence, split)
                found[split][read] = {"value": score.value, "interval": score.interval}
        row["models"][name] = found
    write_json(place / "row.json", row)
    log((seed, row))


def told_apart(row: dict[str, Any]) -> bool:
    """Whether the interval of what rmu gains lies above those of both retrained models."""
    gains = {name: found["forget"]["gain"]["interval"] for name, found in row["models"].items()}
    return bool(gains["rmu"][0] > max(gains[name][1] for name in gains if name.startswith("retrained")))


def collect(work: Path) -> None:
    rows = sorted(kept_rows(work), key=lambda r: r["world"])
    for row in rows:
        row["told_apart"] = told_apart(row)
    log((store("sae_restoration", {"size": SIZE, "recipe": RECIPE, "epochs": EPOCHS, "strengths": STRENGTHS,
                                   "rows": rows}), sum(row["told_apart"] for row in rows), "of", len(rows)))


if __name__ == "__main__":
    parser = study_parser(__doc__)
    parser.add_argument("--worlds", type=int, nargs="+", default=[0, 1, 2])
    given = started(parser)
    if given.collect:
        collect(given.work)
    else:
        for world in given.worlds:
            one(world, given.work)
