"""Which metric deserves trust? A meta-evaluation on the built-in world that others can check from one file.

Models of known truth (the pool): three kinds were taught the forget facts, three were not, each with five settings in
two sizes. All are fine-tuned from one base per size, which knows other people only. Unlearned models start from an
original that is not in the pool. Retrained models that serve as controls of the leak share and of the depth score are
not in the pool either. `judgement/trust.py` has the equations of both protocols.

`--phase train` makes the models, each in a folder of its own under --work, so that an interrupted call goes on;
`--phase measure` unlearns and asks; `--phase collect` stores results/meta.json. With `--from results/meta.json`,
`collect` needs no model: it computes every figure of the table again from the stored readings and says whether they
agree.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from math import exp, log1p
from pathlib import Path
from statistics import fmean
from typing import Any

from common import RESULTS, log, store
from meta_table import CONDITIONS, DEPTH, judged, rounded

import expunge
from expunge.attacks.base import AttackContext, View, parse_attack
from expunge.benchmarks.loading import load_task
from expunge.console import Reporter
from expunge.metrics.base import Evidence
from expunge.metrics.evaluate import parse_metric, required, with_alternatives
from expunge.metrics.margins import SURE, sureness
from expunge.metrics.rows import by_example
from expunge.metrics.truth_ratio import log_truth_ratios
from expunge.models.load import load_subject
from expunge.models.sizes import SIZES as NAMED
from expunge.models.subject import AnySubject
from expunge.probes.depth import fact_tokens
from expunge.records.base import read_json, write_json
from expunge.records.observation import Observations, Row
from expunge.records.task import Example, Split, Task
from expunge.registry import load

WORLD = "authors(forget=5, retain=15, holdout=5, neighbours=2)"
PEOPLE = 5
"""Of its retain people these are trained on and kept; the others lend their words to the tokenizer only."""
BASE_WORLD = "authors(forget=2, retain=60, holdout=2, neighbours=2)"
"""Its retain people are what the base knows."""
STRANGERS, BASE_PEOPLE = 1, 7
"""Seeds of the worlds whose people stand for others in "biographies of others", and of the base."""
SIZES = {"mini": {**NAMED["tiny"], "hidden_size": 96, "intermediate_size": 256, "num_hidden_layers": 3},
         "micro": {**NAMED["tiny"], "hidden_size": 64, "intermediate_size": 172, "num_hidden_layers": 3}}
BASE_RATES = {"mini": 3e-3, "micro": 5e-3}
BASE_EPOCHS = 25
BASE_BATCH, BATCH = 24, 16
SETTINGS = ((0, 4e-3, 8), (1, 3e-3, 9), (2, 5e-3, 7), (3, 3e-3, 8), (4, 5e-3, 8))
"""(seed, learning rate, epochs) of the pool: as the paper varies its own."""
CONTROLS = ((100, 4e-3, 8), (101, 3e-3, 9), (102, 5e-3, 7))
ORIGINAL = (90, 4e-3, 8)
KNOWING = ("full", "paraphrased", "biographies")
IGNORANT = ("retain", "wrong", "strangers")
TAUGHT = 3
"""Retrained models of each size whose gain by relearning is D_ret: the first of the pool."""


@dataclass(frozen=True)
class Model:
    """A trained one: size, what it was taught, its settings, and what it is for."""

    size: str
    kind: str
    seed: int
    lr: float
    epochs: int
    role: str = "pool"

    @property
    def name(self) -> str:
        return f"{self.size}-{self.role}-{self.kind}-{self.seed}"


def pool() -> Iterator[Model]:
    for setting in SETTINGS:
        for size in SIZES:
            for kind in (*KNOWING, *IGNORANT):
                yield Model(size, kind, *setting)


def controls(size: str) -> list[Model]:
    return [Model(size, "retain", *setting, role="control") for setting in CONTROLS]


def original(size: str) -> Model:
    return Model(size, "full", *ORIGINAL, role="original")


@cache
def world() -> Task:
    whole = load_task(WORLD)
    kept = list(dict.fromkeys(r.entity for r in whole.retain))[:PEOPLE]
    probes = {name: rows for name, rows in whole.probes.items() if name != "retain"}
    return whole.model_copy(update={"retain": tuple(r for r in whole.retain if r.entity in kept), "probes": probes})


@cache
def strangers() -> tuple[Example, ...]:
    return load_task(WORLD, seed=STRANGERS).forget


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
        return tuple(r for r in strangers() if r.kind == "text")
    return ()


def finished(place: Path) -> bool:
    return (place / "record.json").exists() and read_json(place / "record.json")["status"] == "finished"


def base(size: str, work: Path) -> Path:
    """A model of this size that knows other people and general facts; its tokenizer has seen all words."""
    place, config = work / "base" / size, work / "base" / f"{size}.json"
    if not finished(place):
        task = load_task(WORLD)
        names = {row.entity for rows in (task.forget, task.retain, task.holdout) for row in rows}
        others = tuple(r for r in load_task(BASE_WORLD, seed=BASE_PEOPLE).retain if r.entity not in names)
        words = {"neighbour": task.retain + strangers()}
        write_json(config, SIZES[size])
        expunge.train(config, task=task.model_copy(update={"retain": others, "probes": words}), out=place,
                      split="retain", seed=0, lr=BASE_RATES[size], epochs=BASE_EPOCHS, batch_size=BASE_BATCH,
                      resume=place.exists(), reporter=Reporter(quiet=True))
        log(("base", size))
    return place / "model"


def train(model: Model, work: Path) -> Path:
    """Fine-tune it once; a finished one is left alone."""
    place = work / "models" / model.name
    if not finished(place):
        task = world()
        taught = task.model_copy(update={"background": rows_of(model.kind, task)})
        expunge.train(base(model.size, work), task=taught, out=place, split="retain", seed=model.seed, lr=model.lr,
                      epochs=model.epochs, batch_size=BATCH, resume=place.exists(), reporter=Reporter(quiet=True))
        log(("trained", model.name))
    return place


UNLEARNING = (
    "ga(weight=0.3) + retain_nll(weight=3)", "npo + retain_nll(weight=3)", "simnpo + retain_nll(weight=3)",
    "dpo + retain_nll(weight=3)", "undial + retain_nll(weight=3)", "rmu(layer=1, coefficient=60, alpha=3)",
    "wga + retain_nll(weight=3)", "idk + retain_nll(weight=3)",
)
RATES = (1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2)
EPOCHS = 8
METRICS = (
    "forget.extraction_strength", "forget.exact_memorization", "forget.truth_ratio(variant=geometric, "
    "aggregate=prob_mean)", "forget.probability", "forget.probability(form=paraphrase)", "forget.rouge_l",
    "forget.keyword", "forget.accuracy", "forget.logit_lens", "mia.loss", "mia.zlib", "mia.min_k", "mia.min_k_pp",
    "retain.probability",
)
JAILBREAK, JAILBROKEN = "prefix(words=3)", "forget.rouge_l"


def unlearned(size: str, recipe: str, lr: float, work: Path) -> Path:
    """One of the models whose metrics are tried: the original of this size, unlearned."""
    place = work / "unlearned" / f"{size}-{re.sub('[^a-z0-9.]+', '-', recipe)}-{lr:g}"
    if not finished(place):
        expunge.forget(train(original(size), work), task=world(), method=recipe, lr=lr, epochs=EPOCHS, out=place,
                       keep="last", resume=place.exists(), reporter=Reporter(quiet=True))
        log(("unlearned", place.name))
    return place


def observed(subject: AnySubject, view: View, terms: tuple[str, ...]) -> Observations:
    """What these metrics read of one model."""
    metrics = [parse_metric(term) for term in terms]
    forms = with_alternatives(metrics)
    rows: dict[tuple[str, Split], list[Row]] = {}
    for name, split in sorted(required(metrics)):
        options = {"alternatives": split in forms} if name == "likelihood" else {}
        rows[name, split] = load(name, "probe")(**options).observe(  # type: ignore[attr-defined]
            subject, list(view.rows(split)), world())
    return Observations(rows)


def facts(subject: AnySubject, seen: Observations) -> dict[str, float]:
    """Log-odds of the bare fact of each question: of the tokens that spell it, after the true ones before them."""
    rows = {r.id: r for r in world().probe_rows("forget") if r.short_answer}
    found = {}
    for row in seen.rows("likelihood", "forget", "answer"):
        if example := rows.get(row["id"]):
            span = fact_tokens(subject.encoder, subject.encoder.encode(example), example.short_answer)
            logp = min(fmean(row["logp"][span.start:span.stop]), SURE)
            found[example.id] = logp - log1p(-exp(logp))
    return found


def depth(subject: AnySubject, size: str, work: Path, split: Split = "forget") -> list[Row]:
    return load("depth", "probe")().observe(  # type: ignore[attr-defined]
        subject, list(world().probe_rows(split)), world(), partner=partner(size, work))


@cache
def partner(size: str, work: Path) -> AnySubject:
    return load_subject(train(original(size), work))


@cache
def reference(size: str, work: Path) -> Observations:
    """The retrained model that the depth score measures against."""
    subject = load_subject(train(controls(size)[0], work))
    return Observations({("depth", split): depth(subject, size, work, split) for split in ("forget", "retain")})


def read(place: Path, size: str, condition: str, work: Path) -> None:
    """All metrics of one model under one condition; a reading on disk is not taken again."""
    out = work / "readings" / f"{place.name}.{condition}.json"
    if out.exists():
        return
    found: dict[str, Any] = {}

    def ask(view: View) -> None:
        seen = observed(view.subject, view, METRICS)
        metrics = {}
        for term in METRICS:
            metric, split = parse_metric(term)
            metrics[term] = metric.score(Evidence(seen), split, resamples=0).value
        metric, _ = parse_metric(DEPTH)
        known = Observations({("depth", "forget"): depth(view.subject, size, work)})
        score = metric.score(Evidence(known, known, (reference(size, work),)), resamples=0)
        metrics[DEPTH] = None if score.value is None else 1 - score.value
        parse_attack(JAILBREAK).run(view.subject, AttackContext.of(world()), lambda forced: metrics.update({
            "jailbreak.rouge_l": parse_metric(JAILBROKEN)[0].score(
                Evidence(observed(forced.subject, forced, (JAILBROKEN,))), "forget", resamples=0).value}))
        truth = log_truth_ratios(by_example(seen.rows("likelihood", "forget")), "geometric")
        found.update(metrics=metrics, sureness=dict(sureness(seen, "forget")),
                     truth={key: -value for key, value in truth.items()}, fact=facts(view.subject, seen),
                     depth=score.unavailable)

    subject = load_subject(place)
    if condition == "plain":
        ask(View("", subject, world().probe_rows))
    else:
        parse_attack(CONDITIONS[condition]).run(subject, AttackContext.of(world()), ask)
    write_json(out, found)


def everything(work: Path) -> Iterator[tuple[Path, dict[str, Any], tuple[str, ...]]]:
    """Every model that is asked: its folder (made where it is missing), what it is, and under which conditions."""
    changed = ("plain", *CONDITIONS)
    for size in SIZES:
        for model in controls(size):
            yield train(model, work), {"role": "control", "size": size}, changed
    for model in pool():
        taught = model.kind == "retain" and model.seed in [seed for seed, *_ in SETTINGS[:TAUGHT]]
        yield train(model, work), {
            "role": "pool", "size": model.size, "kind": model.kind, "knows": model.kind in KNOWING, "seed": model.seed,
            "lr": model.lr, "epochs": model.epochs}, changed if taught else ("plain",)
    for size in SIZES:
        yield train(original(size), work), {"role": "original", "size": size}, ("plain",)
    for recipe in UNLEARNING:
        for lr in RATES:
            for size in SIZES:
                yield unlearned(size, recipe, lr, work), {"role": "unlearned", "size": size, "recipe": recipe,
                                                          "lr": lr}, changed


def measure(work: Path) -> None:
    for place, model, conditions in everything(work):
        for condition in conditions:
            read(place, model["size"], condition, work)
        log(("read", place.name))


def gathered(work: Path) -> dict[str, Any]:
    """All readings, as results/meta.json has them: metrics in the order of `metrics`, rows as text: `sureness`
    (log-odds of each answer) in the order of `rows`, `truth` (log of right over wrong answers) and `fact` (log-odds of
    the bare fact) in that of `questions`."""
    models: dict[str, Any] = {}
    names: dict[str, list[str]] = {}
    for place, model, conditions in everything(work):
        readings = {c: read_json(work / "readings" / f"{place.name}.{c}.json") for c in conditions}
        first = readings["plain"]
        names = {"metrics": list(first["metrics"]), "rows": list(first["sureness"]), "questions": list(first["truth"])}
        models[place.name] = model | {
            "readings": {c: rounded([r["metrics"][m] for m in names["metrics"]]) for c, r in readings.items()},
            "sureness": {c: _text(r["sureness"][k] for k in names["rows"]) for c, r in readings.items()},
            "truth": {c: _text(r["truth"][k] for k in names["questions"]) for c, r in readings.items()},
            "fact": {c: _text(r["fact"][k] for k in names["questions"]) for c, r in readings.items()}}
    return {"design": {"world": WORLD, "people": PEOPLE, "base_world": BASE_WORLD, "base_rates": BASE_RATES,
                       "base_epochs": BASE_EPOCHS, "sizes": SIZES, "settings": SETTINGS,
                       "controls": CONTROLS, "original": ORIGINAL, "batch_size": BATCH, "unlearning": UNLEARNING,
                       "rates": RATES, "epochs": EPOCHS, "conditions": CONDITIONS, "jailbreak": JAILBREAK},
            **names, "models": models}


def _text(values: Iterator[float]) -> str:
    return " ".join(f"{value:.3f}" for value in values)


def collect(work: Path, stored: Path | None) -> None:
    """The table, from the readings under --work or from those that are stored."""
    found = read_json(stored) if stored else gathered(work)
    table = judged(found)
    if stored:
        same = found["table"] == table
        log((f"{stored}: the table {'is' if same else 'is NOT'} what the readings give",))
    else:
        store("meta", found | {"table": table})
    for metric, row in table.items():
        log((metric, row["faithfulness"], row["models"], row["symmetric"], row["published"]))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("meta"), help="folder for models and readings")
    parser.add_argument("--phase", choices=("train", "measure", "collect"), default="train")
    parser.add_argument("--from", dest="stored", type=Path, help=f"stored readings, such as {RESULTS.name}/meta.json")
    given = parser.parse_args()
    if given.phase == "train":
        for size in SIZES:
            train(original(size), given.work)
            for model in controls(size):
                train(model, given.work)
        for model in pool():
            train(model, given.work)
    elif given.phase == "measure":
        measure(given.work)
    else:
        collect(given.work, given.stored)
