"""Every recipe on real TOFU rows: tiny models trained here on forget10 and 20 retained authors.

Needs the TOFU files (--data-dir or EXPUNGE_DATA). Writes results/tofu.json, run by run, and goes on
where it stopped. With --fixed DIR it measures a fixed pair DIR/original, DIR/retrained[, _seed2]
instead and writes results/tofu_fixed.json.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from common import RECIPES, RESULTS, log, measure, store

import expunge
from expunge.benchmarks.cache import cache_root
from expunge.console import Reporter
from expunge.records.base import fingerprint
from expunge.records.task import Task

SEEDS = (0, 1, 2)
LIMIT = 400
"""Rows of every split: all of forget10, and as many retained rows, which are 20 authors."""
CONFIG = {"model_type": "llama", "vocab_size": 3072, "hidden_size": 128, "intermediate_size": 344,
          "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 4,
          "max_position_embeddings": 512, "tie_word_embeddings": True}
TRAINING: dict[str, Any] = {"epochs": 30, "batch_size": 16, "lr": 3e-3}
SETTINGS: dict[str, Any] = {"epochs": 5, "batch_size": 16}
RATES = (2e-4, 6e-4)
SUITE = ",".join((
    "forget_quality,model_utility,privleak",
    *(f"{split}.{name}" for split in ("forget", "retain")
      for name in ("probability", "rouge_l", "truth_ratio", "exact_memorization", "extraction_strength")),
    "holdout.probability,utility.probability,utility.rouge_l,mia.loss,mia.zlib,mia.min_k,mia.min_k_pp",
))
TRIAL_SUITE = "forget_quality,forget.probability,retain.probability,forget.truth_ratio"
RECIPE_TEXT = {"rmu": "rmu(coefficient=20, alpha=100)"}
"""RMU's published coefficient is for activations of Zephyr's size; the dossier says to take 2 to 5 norms."""


def twin(task: Task, split: str, seed: int) -> Path:
    """A trained model, kept under what made it."""
    key = fingerprint([task.fingerprint, split, seed, CONFIG, TRAINING, torch.__version__])
    place = cache_root() / "models" / f"tofu-{split}-{key}"
    if not (place / "model").exists():
        config = place.with_suffix(".json")
        config.parent.mkdir(parents=True, exist_ok=True)
        config.write_text(json.dumps(CONFIG))
        expunge.train(config, task=task, out=place, split=split, seed=seed, resume=place.exists(),
                      reporter=Reporter(), **TRAINING)
    return place


def load(name: str) -> dict[str, Any]:
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else {}


def merit(found: dict[str, Any]) -> float:
    """Forget quality (log10), less a steep price for retain probability below 90 % of the original's."""
    import math

    scores = found["scores"]
    if not scores.get("forget_quality"):
        return -99.0
    kept = scores["retain.probability"] / found["controls"]["retain.probability"]["original"]
    return math.log10(max(scores["forget_quality"], 1e-40)) - 40 * max(0.0, 0.9 - kept)


def run(name: str, task: Task, models: dict[int, tuple[Path, list[Path]]], trials_on: int) -> None:
    """Tune the learning rate on one pair, then measure on every pair; the pair itself comes first."""
    stored = load(name)
    trials, rows, anchors = stored.get("trials", []), stored.get("rows", []), stored.get("anchors", [])

    def save() -> None:
        store(name, {"seeds": list(models), "limit": LIMIT, "training": TRAINING, "config": CONFIG,
                     "anchors": anchors, "trials": trials, "rows": rows})

    for seed, (original, retrained) in models.items():
        for label, subject in (("original", original), ("retrained", retrained[0])):
            if any(a["label"] == label and a["seed"] == seed for a in anchors):
                continue
            out = cache_root() / "audits" / fingerprint([str(subject), str(original), task.fingerprint])
            found = expunge.audit(subject, task=task, out=out, original=original, retrained=retrained,
                                  suite=SUITE, overwrite=True, reporter=Reporter(quiet=True))
            assert isinstance(found, expunge.Audit)
            anchors.append({"label": label, "seed": seed, "scores": {s.name: s.value for s in found.scores},
                            "intervals": {s.name: s.interval for s in found.scores if s.interval}})
            log((label, seed, anchors[-1]["scores"]["forget_quality"], anchors[-1]["scores"]["forget.probability"]))
            save()
    for base in RECIPES:
        recipe = RECIPE_TEXT.get(base, base)
        original, retrained = models[trials_on]
        for rate in RATES:
            if any(t["base"] == base and t["settings"]["lr"] == rate for t in trials):
                continue
            found = measure(original, task, recipe, retrained=retrained, suite=TRIAL_SUITE, seed=trials_on,
                            resamples=0, lr=rate, **SETTINGS)
            trials.append(found | {"base": base, "merit": merit(found)})
            log((base, rate, round(trials[-1]["merit"], 2), found["scores"]))
            save()
    for seed, (original, retrained) in models.items():
        for base in RECIPES:
            if any(r["base"] == base and r["seed"] == seed for r in rows):
                continue
            best = max((t for t in trials if t["base"] == base), key=lambda t: t["merit"])
            row = measure(original, task, best["recipe"], retrained=retrained, suite=SUITE, seed=seed,
                          **best["settings"])
            rows.append(row | {"base": base})
            log((base, seed, row["scores"].get("forget_quality"), row["scores"].get("retain.probability")))
            save()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=Path, default=None)
    parser.add_argument("--fixed", type=Path, default=None, help="folder with original/ and retrained/")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.fixed:
        pair = [options.fixed / n for n in ("retrained", "retrained_seed2") if (options.fixed / n).exists()]
        run("tofu_fixed", expunge.load_task("tofu:forget10", data_dir=options.data_dir),
            {0: (options.fixed / "original", pair)}, 0)
    else:
        chosen = expunge.load_task("tofu:forget10", data_dir=options.data_dir, limit=LIMIT)
        run("tofu", chosen, {s: (twin(chosen, "full", s), [twin(chosen, "retain", s + 100)]) for s in SEEDS}, 0)
