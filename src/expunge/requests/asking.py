"""What a model says of every request of a stream, of the rows to keep, and of rows that it never saw.

It is an ordinary audit of all requested rows together, whose values are then taken request by request.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from expunge.auditing import audit
from expunge.console import Reporter
from expunge.judgement.rebounds import came_back, levels_of
from expunge.metrics.by_entity import entity_means
from expunge.models.load import load_subject, resolve
from expunge.records.examples import ExampleScore, read_examples
from expunge.records.requests import DeletionRequest, ModelReading
from expunge.records.settings import RunSettings
from expunge.records.task import Task

SUITE = "forget.probability,forget.keyword,holdout.probability,holdout.keyword,retain.probability"
"""What is asked after each run; attacks may be added."""
MEASURES = ("probability", "keyword")
RETAIN = "retain.probability"


def fingerprint_of(place: str | Path) -> str:
    """Of the weights of a model, as records have it."""
    return load_subject(place).fingerprint


def ask(place: str | Path, task: Task, rows: Mapping[str, Sequence[str]], *, folder: Path, first: Path | None,
        done: Iterable[DeletionRequest], retrained: Sequence[str], attacks: Sequence[str], settings: RunSettings,
        shown: str = "", run: str = "") -> ModelReading:
    """Ask a model, and say what of the deleted came back.

    Args:
        task: as `task_of_reading` makes it.
        rows: request -> ids of its rows.
        folder: where the answers go; what an interrupted asking left there is replaced.
        first: folder of the first model's answers; None where this is the first.
        done: requests that were carried out before.
        shown: name of the folder in the ledger.
        run: the run that left the model.
    """
    began = time.monotonic()
    if folder.exists():
        shutil.rmtree(folder)
    # The folder of the weights: of a run folder, an audit would ask the model that it began from as well.
    found = audit(resolve(place), task=task, out=folder, retrained=[*retrained], suite=",".join((SUITE, *attacks)),
                  resamples=0,
                  seed=settings.seed, max_length=settings.max_length, template=settings.template,
                  reporter=Reporter(quiet=True))
    table = read_examples(folder)
    values: dict[str, dict[str, float]] = {}
    levels: dict[str, dict[str, float]] = {}
    noise: dict[str, float] = {}
    rebounds: dict[str, dict[str, float]] = {}
    after = {r.id: r.after for r in done}
    for condition, rows_of in _conditions(table).items():
        mine = _by_request(rows_of["subject"], rows)
        others = [_by_request(found_, rows) for model, found_ in rows_of.items() if model.startswith("retrained")]
        holdout = [r for r in table if r["model"] == "subject" and r["attack"] in ("", _attack(condition))
                   and r["score"] == f"holdout.{condition.split()[0]}"]
        under = [r for r in holdout if r["attack"]] or holdout
        known = entity_means({r["id"]: r["value"] for r in under}, {r["id"]: r["entity"] for r in under})
        values[condition] = mine
        levels[condition], noise[condition] = levels_of(list(mine), others, known)
        before = {name: said[condition] for name, said in after.items() if condition in said}
        if risen := came_back(mine, before, levels[condition], noise[condition]):
            rebounds[condition] = risen
    retain = _of(table, RETAIN)
    base = retain if first is None else _of(read_examples(first), RETAIN)
    both = [key for key in retain if key in base]
    return ModelReading(
        model=found.subject.fingerprint, run=run, values=values, levels=levels, noise=noise, rebounds=rebounds,
        retain=_mean([retain[key] for key in both]), retain_before=_mean([base[key] for key in both]),
        folder=shown, seconds=round(time.monotonic() - began, 1))


def _conditions(table: Sequence[ExampleScore]) -> dict[str, dict[str, dict[str, float]]]:
    """Condition -> model -> id of a forget row -> value."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for row in table:
        measure = row["score"].removeprefix("forget.")
        if row["score"].startswith("forget.") and measure in MEASURES:
            name = f"{measure} under {row['attack']}" if row["attack"] else measure
            found.setdefault(name, {}).setdefault(row["model"], {})[row["id"]] = row["value"]
    return {name: models for name, models in found.items() if "subject" in models}


def _attack(condition: str) -> str:
    return condition.partition(" under ")[2]


def _by_request(values: Mapping[str, float], rows: Mapping[str, Sequence[str]]) -> dict[str, float]:
    """Mean over the rows of each request that have a value."""
    found = {name: [values[i] for i in ids if i in values] for name, ids in rows.items()}
    return {name: sum(said) / len(said) for name, said in found.items() if said}


def _of(table: Sequence[ExampleScore], score: str) -> dict[str, float]:
    return {r["id"]: r["value"] for r in table if r["score"] == score and r["model"] == "subject" and not r["attack"]}


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
