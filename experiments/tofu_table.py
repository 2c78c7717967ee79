"""Every recipe on real TOFU rows: tiny models trained here on forget10 and 20 retained authors.

Needs the TOFU files (--data-dir or EXPUNGE_DATA). Writes results/tofu.json, run by run, and goes on
where it stopped. With --fixed DIR it audits a fixed pair DIR/original, DIR/retrained[, _seed2]
only, as it is, and writes results/tofu_fixed.json.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from common import RECIPES, RESULTS, log, measure, store

import expunge
from expunge.audit.cache import cache_root
from expunge.console import Reporter
from expunge.records.base import fingerprint
from expunge.records.task import Task

SEEDS = (0, 1, 2)
LIMIT = 400
"""Rows of every split: all of forget10, and as many retained rows, which are 20 authors."""
RETAIN_PROBES = 100
CONFIG = {"model_type": "llama", "vocab_size": 3072, "hidden_size": 128, "intermediate_size": 344,
          "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 4,
          "max_position_embeddings": 512, "tie_word_embeddings": True}
TRAINING: dict[str, Any] = {"epochs": 30, "batch_size": 16, "lr": 3e-3}
SETTINGS: dict[str, Any] = {"epochs": 4, "batch_size": 16}
RATES = (5e-4,)
"""Learning rates to try on the first pair; with one, nothing is tuned."""
SUITE = ",".join((
    "forget_quality,model_utility,privleak",
    *(f"{split}.{name}" for split in ("forget", "retain")
      for name in ("probability", "rouge_l", "truth_ratio", "exact_memorization", "extraction_strength")),
    "holdout.probability,utility.probability,utility.rouge_l,mia.loss,mia.zlib,mia.min_k,mia.min_k_pp",
))
TRIAL_SUITE = "forget_quality,forget.probability,retain.probability,forget.truth_ratio"
RECIPE_TEXT = {"rmu": "rmu(coefficient=20, alpha=100)"}
"""RMU's published coefficient is for activations of Zephyr's size; 2 to 5 norms of these serve here."""


def shortened(task: Task) -> Task:
    """All 400 forget rows, but fewer of the rows that only show utility: an audit of minutes, not of half an hour."""
    kept = task.probe_rows("retain")[:RETAIN_PROBES]
    utility = [r for group in dict.fromkeys(r.group for r in task.utility)
               for r in [u for u in task.utility if u.group == group][: RETAIN_PROBES // 4]]
    return task.model_copy(update={"probes": task.probes | {"retain": kept}, "utility": tuple(utility),
                                   "holdout": task.holdout[:RETAIN_PROBES], "generation_tokens": 80})


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


def run(name: str, task: Task, models: dict[int, tuple[Path, list[Path]]], recipes: Sequence[str]) -> None:
    """The pairs themselves come first; then tune the learning rate on the first pair, measure on all."""
    stored = load(name)
    trials, rows, anchors = stored.get("trials", []), stored.get("rows", []), stored.get("anchors", [])

    def save() -> None:
        store(name, {"seeds": list(models), "limit": LIMIT, "retain_probes": RETAIN_PROBES, "training": TRAINING,
                     "config": CONFIG, "anchors": anchors, "trials": trials, "rows": rows})

    for seed, (original, retrained) in models.items():
        subjects = [("original", original), *zip(("retrained", "retrained, seed 2"), retrained, strict=False)]
        for label, subject in subjects:
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
    trials_on = next(iter(models))
    for base in recipes:
        recipe = RECIPE_TEXT.get(base, base)
        original, retrained = models[trials_on]
        for rate in RATES if len(RATES) > 1 else ():
            if any(t["base"] == base and t["settings"]["lr"] == rate for t in trials):
                continue
            found = measure(original, task, recipe, retrained=retrained, suite=TRIAL_SUITE, seed=trials_on,
                            resamples=0, lr=rate, **SETTINGS)
            trials.append(found | {"base": base, "merit": merit(found)})
            log((base, rate, round(trials[-1]["merit"], 2), found["scores"]))
            save()
    for seed, (original, retrained) in models.items():
        for base in recipes:
            if any(r["base"] == base and r["seed"] == seed for r in rows):
                continue
            tried = [t for t in trials if t["base"] == base]
            rate = max(tried, key=lambda t: t["merit"])["settings"]["lr"] if tried else RATES[0]
            row = measure(original, task, RECIPE_TEXT.get(base, base), retrained=retrained, suite=SUITE, seed=seed,
                          lr=rate, **SETTINGS)
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
        run("tofu_fixed", shortened(expunge.load_task("tofu:forget10", data_dir=options.data_dir)),
            {0: (options.fixed / "original", pair)}, ())
    else:
        chosen = expunge.load_task("tofu:forget10", data_dir=options.data_dir, limit=LIMIT)
        pairs = {s: (twin(chosen, "full", s), [twin(chosen, "retain", s + 100)]) for s in SEEDS}
        run("tofu", shortened(chosen), pairs, RECIPES)
