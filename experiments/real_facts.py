"""Can a real model forget what it really knows? Facts that SmolLM2-135M-Instruct answers under three wordings.

    OMP_NUM_THREADS=1 python experiments/real_facts.py --work FOLDER --data FOLDER [--seeds 0 1]
    python experiments/real_facts.py --work FOLDER --collect

Writes results/real_facts.json. Two groups of known facts are forgotten; other known facts are kept, or are only watched
(neighbours); facts of the two groups that the model does not know are the holdout rows. There is no retrained model, so
the controls are the original and the holdout rows. Rows lie under --work, so that an interrupted call goes on.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import Any

from common import kept_rows, log, started, store, study_parser
from real_rows import RELATIONS, answered, plain_model, sentence, unknown
from real_runs import forgotten

from expunge.records.base import read_json, write_json
from expunge.records.task import Example, Task

FORGET = ("authors", "official language")
MOST = {"forget": 24, "retain": 24, "neighbour": 16, "holdout": 24}
"""Rows of each set: as many as one core can serve."""
CHOICES = 8
"""Rows of each set of multiple choice."""
NPO = "npo(beta=0.1) + retain_nll(weight=5)"
RECIPES: dict[str, tuple[str, dict[str, Any]]] = {
    "npo, LoRA": (f"{NPO} + lora(rank=8) + adamw(lr=3e-4)", {"epochs": 4}),
    "npo, full": (f"{NPO} + adamw(lr=2e-5)", {"epochs": 4}),
    "npo, shrunk, taught": (f"{NPO} + adamw(lr=2e-5) >> shrink_perturb(alpha=0.1, beta=0, where='mlp') >> "
                            "distil(epochs=6) + adamw(lr=1e-4)", {"epochs": 4}),
}
SUITE = ("leak_share,forget.probability,forget.truth_ratio,forget.keyword,retain.probability,neighbour.probability,"
         "holdout.probability,holdout.keyword,utility.accuracy,mia.loss,mia.min_k,"
         "prefix(words=3),paraphrase(count=1),quantise,relearn(steps=16, batch_size=4)")
LEFT_OUT = ("sample and few_shot: two minutes each on one core; suffix, soft_prompt and every attack that looks for "
            "its words by gradient: a hundred passes for each row")


def task_of(rows: list[dict[str, Any]], data: Path) -> Task:
    """The task of these answered facts."""
    known = {group: [r for r in rows if r["known"] and r["group"] == group] for group in {r["group"] for r in rows}}
    # Half of each list, as equal as it goes; the same draw for every seed of a run.
    draw, forget = random.Random(0), list[dict[str, Any]]()
    for group in FORGET:
        forget += draw.sample(known[group], min(len(known[group]), MOST["forget"] // len(FORGET)))
    others = [r for group in sorted(known) if group not in FORGET for r in known[group]]
    draw.shuffle(others)
    pools = {group: {r["answer"] for r in rows if r["group"] == group} if group in RELATIONS else set[str]()
             for group in FORGET}
    never = [r for r in rows if r["group"] in FORGET and unknown(r)
             and sentence(r, r["answer"], pools[r["group"]])]
    return Task(
        name="real_facts", generation_tokens=16,
        forget=tuple(example(r, f"forget-{i}") for i, r in enumerate(forget)),
        retain=tuple(example(r, f"retain-{i}") for i, r in enumerate(others[: MOST["retain"]])),
        neighbour=tuple(example(r, f"neighbour-{i}") for i, r in
                        enumerate(others[MOST["retain"]: MOST["retain"] + MOST["neighbour"]])),
        holdout=tuple(example(r, f"holdout-{i}", pools[r["group"]]) for i, r in enumerate(
            draw.sample(never, min(len(never), MOST["holdout"])))),
        utility=tuple(choices(data)))


def example(fact: dict[str, Any], name: str, kind: Collection[str] = ()) -> Example:
    """The model's own words up to the fact; see `real_rows.sentence`, which also makes the wrong answers."""
    first, *others = fact["wordings"]
    wrong = (sentence(fact, other, kind) for other in fact["wrong"][:3])
    return Example(id=name, prompt=first, answer=sentence(fact, fact["answer"], kind) or f"{fact['answer']}.",
                   short_answer=fact["answer"], entity="" if fact["entity"] == first else fact["entity"],
                   group=fact["group"], paraphrased_prompts=tuple(others), wrong_answers=tuple(filter(None, wrong)))


def choices(data: Path) -> list[Example]:
    """Short questions of MMLU, TruthfulQA and WinoGrande; the options are compared by their text."""
    made: dict[str, list[tuple[str, list[str], int]]] = {"mmlu": [], "truthfulqa": [], "winogrande": []}
    for row in _lines(data / "utility/mmlu_test.jsonl"):
        made["mmlu"].append((row["question"], row["choices"], row["answer"]))
    for row in _lines(data / "utility/truthfulqa_mc.jsonl"):
        made["truthfulqa"].append((row["question"], row["mc1_targets"]["choices"],
                                   row["mc1_targets"]["labels"].index(1)))
    for row in _lines(data / "utility/winogrande_dev.jsonl"):
        asked = f"{row['sentence'].replace('_', '___')} What stands in the gap?"
        made["winogrande"].append((asked, [row["option1"], row["option2"]], int(row["answer"]) - 1))
    found = list[Example]()
    for name, rows in made.items():
        short = [r for r in rows if len(r[0]) < 140 and sum(map(len, r[1])) < 200 and len(set(r[1])) == len(r[1])]
        found += [Example(id=f"{name}-{i}", prompt=asked, answer=options[right], short_answer=options[right],
                          options=tuple(options), group=name)
                  for i, (asked, options, right) in enumerate(random.Random(0).sample(short, CHOICES))]
    return found


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().split("\n") if line]


def one(name: str, seed: int, model: Path, task: Task, work: Path) -> None:
    place = work / f"{name.replace(' ', '-').replace(',', '')}-{seed}"
    if (place / "row.json").exists():
        return
    recipe, options = RECIPES[name]
    _, found, spent = forgotten(place, model, task, recipe, seed=seed, suite=SUITE, **options)
    assert found.verdict is not None
    row: dict[str, Any] = {
        "name": name, "seed": seed, "recipe": recipe, "settings": options, "outcome": found.verdict.outcome,
        "forget_cpu_s": spent,
        "scores": {s.name: {"value": s.value, "n": s.n, "original": s.controls.get("original"), "why": s.unavailable}
                   for s in found.scores if s.attack is None},
        "attacks": {f"{s.attack}: {s.name}": {
            "value": s.value, "before": s.before, "holdout": s.controls.get("holdout"), "excess": s.excess,
            "gain": s.gain, "original": s.original_attacked}
            for s in found.scores if s.attack and s.value is not None}}
    write_json(place / "row.json", row)
    log((name, seed, row["outcome"], round(row["forget_cpu_s"])))


def collect(work: Path) -> None:
    rows = [row for row in kept_rows(work) if row.get("name") in RECIPES]  # other studies may use the same folder
    rows.sort(key=lambda r: (list(RECIPES).index(r["name"]), r["seed"]))
    facts = read_json(work / "answered.json")
    counts = {group: {"asked": len(mine), "first wording": sum(len(r["said"]) > 1 for r in mine),
                      "known": sum(r["known"] for r in mine)}
              for group in Counter(r["group"] for r in facts) for mine in [[r for r in facts if r["group"] == group]]}
    log((store("real_facts", {"suite": SUITE, "left_out": LEFT_OUT, "forget": FORGET,
                              "sets": read_json(work / "sets.json"), "known": counts, "rows": rows}), len(rows)))


if __name__ == "__main__":
    parser = study_parser(__doc__)
    parser.add_argument("--data", type=Path, help="folder with editing, rwku, tofu and utility")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--recipes", nargs="+", default=list(RECIPES), choices=list(RECIPES))
    given = started(parser)
    if given.collect:
        collect(given.work)
    else:
        if given.data is None:
            parser.error("--data says where the facts are")
        at = plain_model(given.work)
        made = task_of(answered(at, given.work, given.data), given.data)
        write_json(given.work / "sets.json", {split: Counter(r.group for r in made.split(split)) for split in (
            "forget", "retain", "neighbour", "holdout", "utility")})
        for number in given.seeds:
            for called in given.recipes:
                one(called, number, at, made, given.work)
