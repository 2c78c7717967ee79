"""Every method on the built-in world: tuned on one world with the same budget, measured on three others.

Each method's trials are an `expunge sweep` of their own under --work, and each measured row a file, so
several of these may run at once (`--part 1/2`, `--part 2/2`) and an interrupted one goes on.
`--collect` gathers both into results/league_sweep.json and results/league.json.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from common import log, store
from common import measure as common_measure

import expunge
from expunge.console import Reporter
from expunge.demonstration import trained_world
from expunge.errors import ExpungeError
from expunge.records.base import read_json, write_json
from expunge.records.sweep import Sweep
from expunge.records.task import Task
from expunge.tuning import sweep

TUNING_WORLD, WORLDS = 7, (0, 1, 2)
TRIALS, EPOCHS, BATCH = 10, 6, 8
SUITE = ",".join((
    "forget_quality,model_utility,privleak,mia.min_k",
    *(f"{split}.{name}" for split in ("forget", "retain") for name in ("probability", "rouge_l", "truth_ratio")),
    "neighbour.probability,utility.probability,forget.extraction_strength",
))
BASE = "npo + retain_nll"
METHODS: dict[str, str] = {
    # objectives, as they are published where they are published with a retain term
    "ga": "ga", "grad_diff": "grad_diff", "npo": BASE, "npo + retain_kl": "npo + retain_kl", "simnpo": "simnpo",
    "idk": "idk", "dpo": "dpo + retain_nll", "undial": "undial", "rmu": "rmu",
    "wga": "wga + retain_nll", "tnpo": "tnpo + retain_nll", "wtnpo": "wtnpo + retain_nll", "satimp": "satimp",
    "unlikelihood": "unlikelihood + retain_nll", "catnip": "catnip + retain_nll", "ce_u": "ce_u", "flat": "flat",
    "margin": "margin", "whp": "whp(reinforce_lr=0.001)", "meow": "meow(cuts=4)",
    "altpo": "altpo(samples=2, max_new_tokens=40)", "llmu": "llmu", "ga_lora": "ga_lora",
    # how the two gradients become one
    "blur": "npo + blur", "gu": "npo + gu", "pcgrad": "npo + pcgrad", "entropic_pdu": "entropic_pdu",
    # perturbations
    "sam": f"{BASE} + sam", "smooth": f"{BASE} + smooth", "saf": "grad_diff + saf", "lat": f"{BASE} + lat(steps=4)",
    # optimizers
    "sign_sgd": f"{BASE} + sign_sgd", "sign_adam": f"{BASE} + sign_adam",
    "zeroth_order": f"{BASE} + zeroth_order", "hybrid": f"{BASE} + hybrid",
    # scopes and samplers
    "lora": f"{BASE} + lora", "embedding": f"{BASE} + embedding", "salun": f"{BASE} + salun",
    "fisher": f"{BASE} + fisher", "balanced": f"{BASE} + balanced", "melu": f"{BASE} + melu",
    # without a loop, at inference
    "ssd": "ssd", "task_vector": "task_vector", "rocr": "rocr", "first_epoch": "first_epoch", "uld": "uld",
}


LENGTH: dict[str, dict[str, Any]] = {n: {"steps": 78} for n in ("balanced", "melu")}
"""Their epochs walk the retain rows; six epochs of the forget rows are 78 steps."""


def length(name: str) -> dict[str, Any]:
    return {"epochs": EPOCHS, "batch_size": BATCH, **LENGTH.get(name, {})}


def world(seed: int) -> tuple[Task, Path, Path]:
    """Task, original and retrained model of one world; the twins differ in seed as two real trainings would."""
    task = expunge.load_task("authors", seed=seed)
    return task, trained_world(task, "full", seed=seed), trained_world(task, "retain", seed=seed + 1)


def known(recipe: str) -> bool:
    """Whether every name in the recipe exists; a table can be begun before its last method is written."""
    from expunge.methods.recipe import parse

    try:
        parse(recipe)
    except ExpungeError as problem:
        log(("skipped", recipe, problem.what))
        return False
    return True


def slug(name: str) -> str:
    return name.replace(" ", "").replace("+", "-")


def tune(name: str, recipe: str, work: Path) -> Sweep:
    """Ten short trials on the tuning world; a finished sweep is read."""
    place = work / "tune" / slug(name)
    if (place / "sweep.json").exists() and len(Sweep.read(place / "sweep.json").trials) >= TRIALS:
        return Sweep.read(place / "sweep.json")
    task, original, retrained = world(TUNING_WORLD)
    return sweep(recipe, out=place, task=task, model=original, retrained=[retrained], trials=TRIALS, seed=TUNING_WORLD,
                 resume=place.exists(), reporter=Reporter(quiet=True), **length(name))


def measure(name: str, tuned: Sweep, seed: int, work: Path) -> None:
    """The best trial's setting on a world nobody tuned on."""
    row = work / "rows" / f"{slug(name)}-{seed}.json"
    best = tuned.best()
    if row.exists() or best is None:
        return
    task, original, retrained = world(seed)
    rate = best.params.get("lr")
    found = common_measure(original, task, best.recipe, retrained=[retrained], suite=SUITE, seed=seed, resamples=200,
                           lr=rate, **length(name)) | {"base": name, "lr": rate}
    write_json(row, found)
    log((name, seed, {k: found["scores"].get(k) for k in ("forget_quality", "model_utility", "forget.probability")}))


def peak(name: str, work: Path) -> None:
    """Peak bytes of two steps in this very process, which must have done nothing else; kept in a file."""
    task, original, _ = world(WORLDS[0])
    best = Sweep.read(work / "tune" / slug(name) / "sweep.json").best()
    assert best is not None
    with tempfile.TemporaryDirectory() as place:
        record = expunge.forget(original, task=task, method=best.recipe, out=Path(place) / "run", steps=2,
                                batch_size=BATCH, lr=best.params.get("lr"))
    write_json(work / "memory" / f"{slug(name)}.json", {"base": name, "peak_memory_bytes": record.peak_memory_bytes})


def collect(work: Path) -> None:
    """Both stored files from what lies under `work`."""
    sweeps = [Sweep.read(work / "tune" / slug(n) / "sweep.json") for n in METHODS
              if (work / "tune" / slug(n) / "sweep.json").exists()]
    names = [n for n in METHODS if (work / "tune" / slug(n) / "sweep.json").exists()]
    trials = [{"base": name, **t.to_json()} for name, s in zip(names, sweeps, strict=True) for t in s.trials]
    for t in trials:
        t.pop("originals")
    store("league_sweep", {"world": TUNING_WORLD, "epochs": EPOCHS, "batch_size": BATCH, "trials": trials})
    peaks = {read_json(p)["base"]: read_json(p)["peak_memory_bytes"] for p in sorted((work / "memory").glob("*.json"))}
    rows = [read_json(p) for n in METHODS for p in sorted((work / "rows").glob(f"{slug(n)}-[0-9].json"))]
    store("league", {"worlds": WORLDS, "epochs": EPOCHS, "batch_size": BATCH,
                     "peak_memory_bytes": peaks, "rows": rows})
    log((len(trials), "trials", len(rows), "rows"))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("league"), help="folder for sweeps and rows")
    parser.add_argument("--part", default="1/1", help="which of how many processes this is")
    parser.add_argument("--only", nargs="+", default=None, help="names of methods")
    parser.add_argument("--phase", choices=["tune", "measure", "both"], default="both")
    parser.add_argument("--collect", action="store_true")
    parser.add_argument("--memory", action="store_true", help="peak memory of every tuned method, each in a process "
                                                              "of its own")
    parser.add_argument("--peak", default=None, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.collect:
        collect(options.work)
    elif options.peak:
        peak(options.peak, options.work)
    elif options.memory:
        for name in METHODS:
            if not (options.work / "memory" / f"{slug(name)}.json").exists():
                subprocess.run([sys.executable, __file__, "--work", options.work, "--peak", name], check=False)
    else:
        part, parts = map(int, options.part.split("/"))
        chosen = [n for n in (options.only or METHODS) if known(METHODS[n])]
        for name in chosen[part - 1:: parts]:
            tuned = tune(name, METHODS[name], options.work)
            log((name, "tuned", tuned.best().recipe if tuned.best() else "nothing worked"))
            if options.phase != "tune":
                for seed in WORLDS:
                    measure(name, tuned, seed, options.work)
