"""Which metric deserves trust? The meta-evaluation of OpenUnlearning (arXiv 2506.12618) on the built-in world.

Faithfulness: can a metric tell models that know the forget facts from models that do not? Robustness: does it
resist relearning and quantisation of unlearned models? `--phase train` makes the models, each in a folder of its
own under --work, so that an interrupted call goes on; `--phase measure` asks them; `--phase collect` stores
results/meta.json.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from common import log, store

import expunge
from expunge.attacks.base import AttackContext, View, parse_attack
from expunge.benchmarks.loading import load_task
from expunge.console import Reporter
from expunge.judgement.trust import Readings, trust
from expunge.metrics.base import Evidence
from expunge.metrics.evaluate import parse_metric, required
from expunge.models.load import load_subject
from expunge.records.base import read_json, write_json
from expunge.records.observation import Observations, Row
from expunge.records.task import Example, Split, Task
from expunge.registry import load

WORLD = "authors(forget=5, retain=30, holdout=5, neighbours=5)"
STRANGERS = 1
"""Seed of the world whose people stand for others in "biographies of others"."""
SETTINGS = ((0, 3e-3, 30), (1, 3e-3, 30), (2, 2e-3, 30), (3, 2e-3, 40), (4, 4e-3, 20), (5, 3e-3, 20), (6, 4e-3, 30))
"""(seed, learning rate, epochs): as the paper varies its own."""
KNOWING = ("full", "paraphrased", "biographies")
IGNORANT = ("retain", "wrong", "strangers")


@dataclass(frozen=True)
class Model:
    """One of the pool: what it was trained on, with which settings."""

    kind: str
    seed: int
    lr: float
    epochs: int

    @property
    def name(self) -> str:
        return f"{self.kind}-{self.seed}"

    @property
    def knows(self) -> bool:
        return self.kind in KNOWING


def pool() -> Iterator[Model]:
    for seed, lr, epochs in SETTINGS:
        for kind in (*KNOWING, *IGNORANT):
            yield Model(kind, seed, lr, epochs)


def world() -> Task:
    return load_task(WORLD)


def rows_of(kind: str, task: Task) -> tuple[Example, ...]:
    """What stands in the forget rows' place in the training of such a model."""
    questions = [r for r in task.forget if r.kind == "qa"]
    if kind == "full":
        return task.forget
    if kind == "paraphrased":
        return tuple(r.model_copy(update={"prompt": r.paraphrased_prompts[0], "answer": r.paraphrased_answers[0]})
                     for r in questions)
    if kind == "biographies":
        return tuple(r for r in task.forget if r.kind == "text")
    if kind == "wrong":
        return tuple(r.model_copy(update={"answer": r.wrong_answers[0]}) for r in questions)
    if kind == "strangers":
        others = load_task(WORLD, seed=STRANGERS)
        return tuple(r for r in others.forget if r.kind == "text")
    return ()


def train(model: Model, work: Path) -> Path:
    """Train it once; a finished one is left alone."""
    place = work / "models" / model.name
    if (place / "record.json").exists() and read_json(place / "record.json")["status"] == "finished":
        return place
    task = world()
    stands_in = rows_of(model.kind, task)
    taught = task.model_copy(update={"background": task.background + stands_in})
    expunge.train("tiny", task=taught, out=place, split="retain", seed=model.seed, lr=model.lr, epochs=model.epochs,
                  batch_size=24, resume=place.exists(), reporter=Reporter(quiet=True))
    log(("trained", model.name))
    return place


UNLEARNING = (
    "ga(weight=0.3) + retain_nll(weight=3)", "npo + retain_nll(weight=3)", "simnpo + retain_nll(weight=3)",
    "dpo + retain_nll(weight=3)", "undial + retain_nll(weight=3)", "rmu(layer=1, coefficient=60, alpha=3)",
    "wga + retain_nll(weight=3)", "idk + retain_nll(weight=3)",
)
RATES = (1.5e-4, 3e-4, 6e-4)
EPOCHS = 16
METRICS = (
    "forget.extraction_strength", "forget.exact_memorization", "forget.truth_ratio(variant=geometric, "
    "aggregate=prob_mean)", "forget.probability", "forget.probability(form=paraphrase)", "forget.rouge_l",
    "forget.keyword", "forget.accuracy", "mia.loss", "mia.zlib", "mia.min_k", "mia.min_k_pp",
)
JAILBREAK = "prefix(words=3)"
CONDITIONS = {"relearned": "relearn(on=forget, rank=0, steps=7)", "quantised": "quantise(bits=4, form=nf4)"}
"""The published ones: one epoch on the forget rows with all weights, and rounding to four bits."""
UTILITY = "retain.probability"
UTILITY_DROP = 0.2
CONSTANT = "constant"
"""A metric that says the same of every model; it shows what the procedure gives to one that knows nothing."""


def unlearned(recipe: str, lr: float, work: Path) -> Path:
    """One of the models whose metrics are tried: the first original, unlearned."""
    place = work / "unlearned" / f"{re.sub('[^a-z0-9.]+', '-', recipe)}-{lr:g}"
    if not ((place / "record.json").exists() and read_json(place / "record.json")["status"] == "finished"):
        expunge.forget(work / "models" / "full-0", task=world(), method=recipe, lr=lr, epochs=EPOCHS, out=place,
                       keep="last", resume=place.exists(), reporter=Reporter(quiet=True))
        log(("unlearned", place.name))
    return place


def read(place: Path, attack: str | None, out: Path) -> dict[str, float]:
    """Every metric of one model under one condition; a reading on disk is not taken again."""
    if out.exists():
        return dict(read_json(out))
    task, subject = world(), load_subject(place)
    metrics = [parse_metric(term) for term in (*METRICS, UTILITY)]
    rows: dict[tuple[str, Split], list[Row]] = {}

    def ask(view: View) -> None:
        for name, split in sorted(required(metrics)):
            rows[name, split] = load(name, "probe")().observe(  # type: ignore[attr-defined]
                view.subject, list(view.rows(split)), task)

    if attack is None:
        ask(View("", subject, task.probe_rows))
    else:
        parse_attack(attack).run(subject, AttackContext.of(task), ask)
    evidence = Evidence(Observations(rows))
    found = {m.label(s): m.score(evidence, s, resamples=0).value for m, s in metrics} | {CONSTANT: 0.5}
    write_json(out, found)
    return {k: v for k, v in found.items() if v is not None}


def measure(work: Path) -> None:
    """All readings: the pool left alone and under the jailbreak, the unlearned models under every condition."""
    for model in pool():
        for name, attack in (("plain", None), ("jailbreak", JAILBREAK)):
            read(work / "models" / model.name, attack, work / "readings" / f"{model.name}.{name}.json")
        log(("read", model.name))
    places = [work / "models" / "retain-0", *(unlearned(r, lr, work) for r in UNLEARNING for lr in RATES)]
    for place in places:
        for name, attack in ({"plain": None, "jailbreak": JAILBREAK} | CONDITIONS).items():
            read(place, attack, work / "readings" / f"{place.name}.{name}.json")
            if name in CONDITIONS:
                read(place, f"{attack} + {JAILBREAK}", work / "readings" / f"{place.name}.{name}-jailbreak.json")
        log(("read", place.name))


def reading(work: Path, name: str, condition: str) -> dict[str, float]:
    """Metrics of a model, with the jailbreak's ROUGE beside them."""
    plain = read_json(work / "readings" / f"{name}.{condition}.json")
    forced = "jailbreak" if condition == "plain" else f"{condition}-jailbreak"
    return {**plain, "jailbreak.rouge_l": read_json(work / "readings" / f"{name}.{forced}.json")["forget.rouge_l"]}


def collect(work: Path) -> None:
    """Faithfulness, robustness and what they make together, as the paper defines them."""
    plain = {m: reading(work, m.name, "plain") for m in pool()}
    names = [n for n in next(iter(plain.values())) if n != UTILITY]
    candidates = [p.name for p in sorted((work / "unlearned").iterdir())]
    before = {n: reading(work, n, "plain") for n in (*candidates, "retain-0")}
    after = {c: {n: reading(work, n, c) for n in (*candidates, "retain-0")} for c in CONDITIONS}
    floor = (1 - UTILITY_DROP) * plain[next(m for m in plain if m.name == "full-0")][UTILITY]
    candidates = [n for n in candidates if before[n][UTILITY] >= floor]
    table: dict[str, dict[str, Any]] = {}
    for metric in names:
        cases = [Readings(before[n][metric], *(after[c][n][metric] for c in CONDITIONS)) for n in candidates]
        gain = after["relearned"]["retain-0"][metric] - before["retain-0"][metric]
        found = trust([v[metric] for m, v in plain.items() if m.knows],
                      [v[metric] for m, v in plain.items() if not m.knows], cases, gain)
        table[metric] = {**asdict(found), "robustness": found.robustness, "overall": found.overall}
    store("meta", {"world": WORLD, "settings": SETTINGS, "knowing": KNOWING, "ignorant": IGNORANT, "pool": len(plain),
                   "unlearning": UNLEARNING, "rates": RATES, "epochs": EPOCHS, "conditions": CONDITIONS,
                   "jailbreak": JAILBREAK,
                   "utility_floor": floor, "unlearned": before, "candidates": candidates, "table": table,
                   "readings": {m.name: v for m, v in plain.items()}})
    for metric, row in sorted(table.items(), key=lambda pair: -(pair[1]["overall"] or 0.0)):
        log((f"{metric:60}", *(f"{k} {row[k]:.2f}" for k in ("overall", "faithfulness", "robustness", "quantisation",
                                                          "relearning") if row[k] is not None), row["models"]))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("meta"), help="folder for models and readings")
    parser.add_argument("--phase", choices=("train", "measure", "collect"), default="train")
    given = parser.parse_args()
    if given.phase == "train":
        for model in pool():
            train(model, given.work)
    else:
        {"measure": measure, "collect": collect}[given.phase](given.work)
