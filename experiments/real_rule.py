"""Do methods that learn from a model's own answers work on a real one? Fifty steps of `rule` and of `adaptive`.

    OMP_NUM_THREADS=1 python experiments/real_rule.py --work FOLDER --data FOLDER
    python experiments/real_rule.py --work FOLDER --collect

Writes results/real_rule.json: processor seconds, and the mean reward of the first ten and the last ten steps. Both run
on SmolLM2-135M-Instruct. `rule` is taught to refuse questions about authors that it answers right, and to answer other
questions, after a few steps of `idk`; `adaptive` to say no unknown name where it does not know the author. Rows lie
under --work.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from cells import results
from common import log, started, store, study_parser
from real_facts import example
from real_rows import answered, plain_model
from real_runs import busy

import expunge
from expunge.console import Reporter
from expunge.records.base import read_json, write_json
from expunge.records.run import RunRecord
from expunge.records.task import Task

STEPS, BATCH, ENDS, ROWS = 50, 1, 10, 40
NAME = r"\b(?!(?:The|This|That|It|He|She|In|On|A|An|I)\b)[A-Z][\w'-]*(?: [A-Z][\w'-]*)*"
"""A name, but for words with which a sentence begins."""
ADAPTER = "lora(rank=8) + adamw(lr=5e-4, weight_decay=0)"
FIRST = ("idk + adamw(lr=2e-5, weight_decay=0)", 16)
"""What teaches `rule` to refuse, and its steps: an answer that is never sampled is never rewarded."""
OWN_NAMES = f"adaptive(samples=4, tokens=10, reword=False, pattern={NAME!r}"
RECIPES = {"rule": f"rule(samples=4, tokens=10) + {ADAPTER}", "adaptive": f"{OWN_NAMES}) + {ADAPTER}",
           "adaptive, faster": f"{OWN_NAMES}, false=3) + retain_kl + lora(rank=8) + adamw(lr=2e-3, weight_decay=0)"}


def task_of(rows: list[dict[str, Any]], name: str) -> Task:
    """Authors that the model knows (`rule`) or does not (`adaptive`); what else it knows is to stay."""
    known = [r for r in rows if r["known"] and r["group"] != "authors"]
    asked = [r for r in rows if r["group"] == "authors" and (r["known"] if name == "rule" else len(r["said"]) == 1)]
    random.Random(0).shuffle(known)
    return Task(name=f"real_{name}", generation_tokens=12,
                forget=tuple(example(r, f"forget-{i}") for i, r in enumerate(asked[:ROWS])),
                retain=tuple(example(r, f"retain-{i}") for i, r in enumerate(known[:ROWS])))


def place_of(name: str, work: Path) -> Path:
    return work / f"real-{name.replace(', ', '-')}"


def one(name: str, model: Path, rows: list[dict[str, Any]], work: Path) -> None:
    place = place_of(name, work)
    if (place / "row.json").exists():
        return
    task, start = task_of(rows, name), str(model)
    shared: dict[str, Any] = {"task": task, "batch_size": BATCH, "keep": "last", "eval_every": 1000,
                              "checkpoint_every": 10, "reporter": Reporter(quiet=True)}
    if name == "rule":
        start = str(work / "refusing")
        expunge.forget(model, method=FIRST[0], steps=FIRST[1], out=start, resume=Path(start).exists(),
                       **(shared | {"batch_size": 4}))
    steps = place / "steps.jsonl"
    begun, before = busy(), len(steps.read_text().splitlines()) if steps.exists() else 0
    record = expunge.forget(start, method=RECIPES[name], steps=STEPS, out=place, resume=place.exists(),
                            **shared)
    assert isinstance(record, RunRecord)
    write_json(place / "row.json", {"cpu_s": busy() - begun, "cpu_steps": STEPS - before,
                                    "train_s": record.timing["train_s"]})
    log((name, summary(name, place)["ends"]))


def summary(name: str, place: Path) -> dict[str, Any]:
    """Rewards of the steps taken so far; processor seconds of the steps since the last interruption (`cpu_steps`)."""
    lines = [json.loads(line) for line in (place / "steps.jsonl").read_text().splitlines()]
    rewards = {part: [line[part] for line in lines] for part in ("reward", "reward_reject", "reward_normal")
               if part in lines[0]}
    seconds = read_json(place / "row.json") if (place / "row.json").exists() else {}
    return {"name": name, "recipe": RECIPES[name], "first": FIRST if name == "rule" else None, "steps": len(lines),
            "of": STEPS, "batch": BATCH, "rewards": rewards, **seconds,
            "ends": {part: [sum(v[:ENDS]) / ENDS, sum(v[-ENDS:]) / ENDS] for part, v in rewards.items()}}


def collect(work: Path) -> None:
    stored = {row["name"]: row for row in results("real_rule")["rows"]}
    stored |= {name: summary(name, place_of(name, work)) for name in RECIPES
               if (place_of(name, work) / "steps.jsonl").exists()}
    rows = [stored[name] for name in RECIPES if name in stored]
    log((store("real_rule", {"rows": rows}), len(rows)))


if __name__ == "__main__":
    parser = study_parser(__doc__)
    parser.add_argument("--data", type=Path, help="folder with editing, rwku and tofu")
    parser.add_argument("--methods", nargs="+", default=list(RECIPES), choices=list(RECIPES))
    given = started(parser)
    if given.collect:
        collect(given.work)
    else:
        if given.data is None:
            parser.error("--data says where the facts are")
        at = plain_model(given.work)
        known = answered(at, given.work, given.data)
        for called in given.methods:
            one(called, at, known, given.work)
