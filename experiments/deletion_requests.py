"""Twenty requests to delete, one after the other: does anything come back, and what is left of the rest?

    OMP_NUM_THREADS=1 python experiments/deletion_requests.py --work FOLDER [--only NAME ...] [--count N]
    python experiments/deletion_requests.py --work FOLDER --collect

Writes results/requests.json and docs/requests.svg. One small model of 20 people to forget; each request deletes one of
them. Two models that were trained without all of them show what never seen looks like, and by how much such models
differ (the noise floor). The streams are those of `expunge requests run`, so an interrupted call goes on.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from common import log, started, store, study_parser
from requests_table import draw

import expunge
from expunge.console import Reporter
from expunge.metrics.stability_gap import loss_per_request, rebounds, stability_gap, sustainability
from expunge.records.requests import ModelReading, RequestStream, curves
from expunge.records.task import Task

TASK = "authors(forget=20,retain=20,holdout=20,neighbours=0,limit=60)"
CONFIG = {"model_type": "llama", "vocab_size": 1024, "hidden_size": 96, "intermediate_size": 192,
          "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 4, "max_position_embeddings": 256,
          "tie_word_embeddings": True}
LEDGER = "ledger.db"
TRAINING: dict[str, Any] = {"epochs": 30, "batch_size": 20, "lr": 4e-3}
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "npo, repeated": ("npo + adamw(lr=5e-4, weight_decay=0)", {"epochs": 20}),
    "npo + retain_nll, to the level of holdout rows": (
        "npo + retain_nll(weight=3) + holdout_level + adamw(lr=5e-4, weight_decay=0)",
        {"steps": 20, "batch_size": 24}),
}
"""Name -> recipe of every run, and its options."""


def world(work: Path) -> tuple[Task, Path, list[Path]]:
    """The task, the original and two retrained models, trained once."""
    task, config = expunge.load_task(TASK), work / "config.json"
    config.write_text(json.dumps(CONFIG))
    made = []
    for name, split, seed in (("original", "full", 0), ("retrained-1", "retain", 1), ("retrained-2", "retain", 2)):
        made.append(work / name)
        if not (made[-1] / "model").exists():
            expunge.train(config, task=task, out=made[-1], split=split, seed=seed, overwrite=made[-1].exists(),
                          reporter=Reporter(quiet=True), **TRAINING)
            log(("trained", name))
    return task, made[0], made[1:]


def folder(name: str, work: Path) -> Path:
    return work / name.split(",")[0].replace(" ", "")


def one(name: str, count: int, work: Path) -> None:
    place, (recipe, options) = folder(name, work), METHODS[name]
    task, original, retrained = world(work)
    people = list(dict.fromkeys(row.entity for row in task.forget))[:count]
    ledger, quiet = place / LEDGER, Reporter(quiet=True)
    place.mkdir(parents=True, exist_ok=True)
    there = len(expunge.requests.status(ledger).requests) if ledger.exists() else 0
    for person in people[there:]:
        expunge.requests.add(ledger, task=task, entity=person, reporter=quiet)
    begun = bool(expunge.requests.status(ledger).runs)
    found = expunge.requests.run(ledger, model=None if begun else original, task=task, retrained=retrained, batch=1,
                                 method=None if begun else recipe, out=place / "runs", resume=True, reporter=quiet,
                                 **({} if begun else options))
    log((name, json.dumps({k: v for k, v in figures(found).items() if k != "points"})))


def figures(found: RequestStream) -> dict[str, Any]:
    """The curve over requests and what sums it up."""
    values, done = curves(found)
    last = found.readings[-1]
    levels, noise = last.levels["probability"], last.noise["probability"]
    later = {r: rebounds(values[r], done[r], levels[r]) for r in done}
    points = [point(i, reading, values, done, levels) for i, reading in enumerate(found.readings)]
    kept = [p["utility"] for p in points]
    after = [r.after["probability"] for r in found.requests if r.done]
    return {
        "requests": len(done), "asked_for": len(found.requests), "noise": noise,
        "level": sum(levels.values()) / len(levels),
        "known_before": sum(values[r][0] for r in values) / len(values), "after": sum(after) / len(after),
        "above_never_seen": max(r.after["probability"] - levels[r.id] for r in found.requests if r.done),
        "worst_rebound": max((v for row in later.values() for v in row), default=0.0),
        "beyond_noise": sum(any(v > noise for v in row) for row in later.values()),
        "keyword_alarms": len({r for reading in found.readings for r in reading.rebounds.get("keyword", ())}),
        "utility": sustainability(kept)[-1], "worst_utility": min(kept), "stability_gap": stability_gap(kept),
        "loss_per_request": loss_per_request(kept), "alarms": len(found.alarms),
        "seconds": sum(run.seconds for run in found.runs) / len(done),
        "asking": sum(r.seconds for r in found.readings) / len(found.readings), "points": points}


def point(i: int, reading: ModelReading, values: dict[str, Any], done: dict[str, int],
          levels: dict[str, float]) -> dict[str, Any]:
    """What one reading says of the requests that were carried out by then."""
    mine = [r for r, at in done.items() if at <= i]
    risen = [values[r][i] - max(values[r][done[r]], levels[r]) for r in mine if done[r] < i]
    return {"deleted": len(mine), "mean": sum(values[r][i] for r in mine) / len(mine) if mine else None,
            "most": max((values[r][i] for r in mine), default=None), "rebound": max(risen, default=None),
            "open": _mean([values[r][i] for r in values if r not in mine]), "utility": reading.utility}


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None


def collect(work: Path) -> None:
    """What the ledgers tell, of streams that did not end as well."""
    rows = [{"name": name, "recipe": recipe, "options": options, **figures(expunge.requests.status(place))}
            for name, (recipe, options) in METHODS.items() if (place := folder(name, work) / LEDGER).exists()]
    draw(rows)
    log((store("requests", {"task": TASK, "model": CONFIG, "training": TRAINING, "retrained": 2, "rows": rows}),
         len(rows)))


if __name__ == "__main__":
    parser = study_parser(__doc__)
    parser.add_argument("--only", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--count", type=int, default=20)
    given = started(parser)
    os.environ.setdefault("EXPUNGE_CACHE", str(given.work / "cache"))
    if given.collect:
        collect(given.work)
    else:
        for called in given.only:
            one(called, given.count, given.work)
