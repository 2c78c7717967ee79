"""Per-row membership attacks on unlearned models, with shadow models of two small sets of rows.

Each shadow is an original, its retrained twin and one unlearned model per method; originals stand for doing nothing,
the twins for the floor. An interrupted call goes on where it stopped. Stored in results/shadows.json, set by set.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common import RESULTS, log, store

import expunge
from expunge.benchmarks.digits import digits_task
from expunge.console import Reporter
from expunge.records.base import write_json
from expunge.records.run import environment
from expunge.records.task import Example, Task

WORLD = "authors(forget=8, retain=4, holdout=8, neighbours=0)"
LLAMA = {
    "model_type": "llama", "vocab_size": 768, "hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 4, "max_position_embeddings": 256, "tie_word_embeddings": True,
}
HEADS = ("accuracy", "mean", "F", "unavailable", "told_apart")
METHODS = ("grad_diff", "npo + retain_nll(weight=3)")


@dataclass(frozen=True)
class Study:
    """Rows, the models to make of them, and how."""

    rows: str
    task: Callable[[int], Task]
    config: dict[str, Any] | str
    training: dict[str, Any]
    unlearning: dict[str, Any]


def authors(seed: int) -> Task:
    """Nothing in the pool hangs on the utility rows, and without them a training takes half the time."""
    return expunge.load_task(WORLD, seed=seed).model_copy(update={"background": (), "utility": ()})


def digits(seed: int) -> Task:
    """Every second row that is dealt out has a wrong label: rows that a model can only know by heart."""
    task = digits_task(forget="random:0.15", per_class=40, seed=seed)

    def labelled(number: int, row: Example) -> Example:
        wrong = row.wrong_answers[number // 2 % len(row.wrong_answers)]
        changed = {"answer": wrong, "short_answer": wrong, "group": "wrong label"} if number % 2 else {}
        return row.model_copy(update=changed)

    return task.model_copy(update={"utility": (), "probes": {}} | {
        split: tuple(labelled(i, row) for i, row in enumerate(task.split(split))) for split in ("forget", "holdout")})


STUDIES = {
    "authors": Study(WORLD, authors, LLAMA, {"train_epochs": 40, "train_lr": 5e-3, "batch_size": 8},
                     {"epochs": 6, "lr": 5e-4}),
    "digits": Study("digits(forget=random:0.15, per_class=40), every second one of them with a wrong label", digits,
                    "cnn", {"train_epochs": 25, "train_lr": 3e-3, "batch_size": 8}, {"epochs": 4, "lr": 5e-4}),
}


def main(name: str, count: int, work: Path, seed: int, keep: bool) -> None:
    """Make or go on with the shadows; store what they say only from a clean tree."""
    study, config = STUDIES[name], work / "config.json"
    if isinstance(study.config, dict):
        write_json(config, study.config)
    place = work / f"{name}-{seed}"
    found = expunge.make_shadows(METHODS, out=place, count=count, task=study.task(seed), seed=seed,
                                 model=config if isinstance(study.config, dict) else study.config,
                                 resume=place.exists(), reporter=Reporter(), **study.training, **study.unlearning)
    for model, measures in found.results.items():
        log((model, {k: next((v[key] for key in HEADS if key in v), None) for k, v in measures.items()}))
    commit = environment()["commit"] or "dirty"
    if not keep or "dirty" in commit:
        log(("not stored:", "the tree differs from its commit" if "dirty" in commit else "--keep was not given"))
        return
    path = RESULTS / "shadows.json"
    sets = json.loads(path.read_text()).get("sets", {}) if path.exists() else {}
    sets[name] = {"rows": study.rows, "config": study.config, "training": study.training,
                  "unlearning": study.unlearning, "seed": seed, "shadows": count, "points": found.points,
                  "statistic": found.statistic, "seconds": found.seconds, "commit": commit, "results": found.results}
    log(("stored", store("shadows", {"sets": sets})))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", choices=tuple(STUDIES), default="authors")
    parser.add_argument("--count", type=int, default=32, help="shadows, a multiple of 4")
    parser.add_argument("--work", type=Path, default=Path("shadows"), help="folder for the margins")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", action="store_true", help="store results/shadows.json")
    given = parser.parse_args()
    main(given.rows, given.count, given.work, given.seed, given.keep)
