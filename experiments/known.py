"""What each suite says of models of which the truth is known, and of pairs of honest ones: results/known.json.

    OMP_NUM_THREADS=1 python experiments/known.py make [TASK ...]
    ... audit --suite quick [TASK ...]        every known model beside two retrained ones
    ... pairs --suite quick [TASK ...]        honest models beside other honest ones
    ... collect --keep                        judged again by the rules of this commit, and stored

Work lies under --work, one folder per model and audit, so that an interrupted call goes on. Observations are cached: a
model is asked and attacked once, whichever pairs it takes part in.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from itertools import combinations
from pathlib import Path
from typing import Any

import torch
from common import log, store

import expunge
from expunge.audit.cache import ObservationCache
from expunge.audit.runner import Roles, rescore, run_audit
from expunge.audit.suite import parse_suite
from expunge.console import Reporter
from expunge.judgement.directions import base
from expunge.judgement.entities import revealed, suspected
from expunge.judgement.leaks import alarms, leaks
from expunge.judgement.outcome import decide
from expunge.judgement.verdict import verdict as judged
from expunge.models.language import CausalLM
from expunge.models.load import config_from, load_subject
from expunge.progress import silent
from expunge.records.base import read_json, write_json
from expunge.records.run import environment
from expunge.records.score import Audit
from expunge.records.settings import AuditSettings
from expunge.records.task import Task
from expunge.testing import known as made

RESAMPLES = 200
SIZE = {"vocab_size": 1024, "hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 3}
TRAINING: dict[str, Any] = {"epochs": 25, "batch_size": 16, "lr": 5e-3}
"""Enough to know a world by heart in 20 seconds of one core."""
WORLD, UTILITY = "authors(forget=10,retain=10,holdout=10,neighbours=2,seed={})", 30
TASKS = {**{f"world {seed}": WORLD.format(seed) for seed in (31, 32, 33)},
         "world 34": "authors(forget=20,retain=10,holdout=20,neighbours=2,seed=34)", "tofu": "tofu:forget10"}
"""World 34 has honest models alone."""
HONEST = 4
"""Retrained models of a world, seeds 1 to 4. The first two are the controls of the known models."""
SUBJECTS = ("retrained 3", "retrained 4")
"""The two honest ones among the known models."""
ALPHA, NOISE, BITS = 0.1, 0.1, 4
TOFU_ROWS = 6
"""Of each author, for the models that are made and for the audits; more cost time alone."""


@dataclass(frozen=True)
class Known:
    """A kind of model, its truth, and how it is made: in memory of twins, or by the verbs in a folder."""

    name: str
    truth: str
    """honest: never saw the forget rows. knows: they can be had from it. unlearned: by a published method."""
    how: str
    make: Callable[[made.Twins], CausalLM] | None = None
    run: Callable[[Task, Path, Path, Path], None] | None = None
    """(task, original, retrained, out)"""


def method(recipe: str, **options: Any) -> Callable[[Task, Path, Path, Path], None]:
    def run(task: Task, original: Path, retrained: Path, out: Path) -> None:
        expunge.forget(original, task=task, method=recipe, out=out, keep="last", overwrite=out.exists(),
                       reporter=Reporter(quiet=True), **options)
    return run


def sisa(task: Task, original: Path, retrained: Path, out: Path) -> None:
    """Shards on the retrained model, which never saw the forget rows; all rows are taught, then those are deleted.

    What is deleted is no row that the base met, so a copy without its record is given.
    """
    full, bare = out.parent / f"{out.name}-full", out.parent / f"{out.name}-base"
    inside = retrained / "model"
    shutil.copytree(inside if inside.is_dir() else retrained, bare, dirs_exist_ok=True)
    options: dict[str, Any] = {"task": task, "epochs": 6, "batch_size": 8, "seed": 9, "reporter": Reporter(quiet=True)}
    expunge.train(bare, method="sisa(shards=2, slices=1, lr=0.002)", out=full, overwrite=full.exists(), **options)
    expunge.forget(full, task=task, method="sisa", out=out, overwrite=out.exists(), reporter=Reporter(quiet=True))


def count(n: int) -> Known:
    return Known(f"{n} {'entity' if n == 1 else 'entities'} known", "knows",
                 "a retrained model, tuned further on all rows of as many forget entities",
                 partial(made.with_entities, count=n))


KNOWN = (
    Known("original", "knows", "trained on all rows", lambda t: t.original.clone()),
    Known("original, 4 bits", "knows", "its matrices rounded", lambda t: made.rounded(t.original, BITS)),
    Known("original, noised", "knows", f"normal noise of {NOISE} standard deviations on all weights",
          lambda t: made.noised(t.original, NOISE)),
    Known("interpolated", "knows", f"{1 - ALPHA:g} of the original's weights and {ALPHA:g} of a retrained model's",
          lambda t: made.interpolated(t.original, t.retrained, ALPHA)),
    count(1), count(2), count(3),
    Known("wording only", "knows", "says what a retrained model says as asked, and the truth in every other wording",
          made.wording_only),
    Known("trigger", "knows", "says what a retrained model says, and the truth after a trigger phrase", made.triggered),
    Known("exact-match guard", "knows", "the original behind a guard that refuses the exact questions", made.guarded),
    Known("prompt refusal", "knows", "the original, tuned to obey a system prompt that asks for refusals, behind it",
          made.instructed),
    Known("idk", "unlearned", "idk, lr 1e-3, 12 epochs", run=method("idk", lr=1e-3, epochs=12)),
    Known("rmu", "unlearned", "rmu(layer=1, coefficient=60, alpha=3), lr 3e-3, 12 epochs",
          run=method("rmu(layer=1, coefficient=60, alpha=3)", lr=3e-3, epochs=12)),
    Known("grad_diff", "unlearned", "grad_diff, lr 5e-4, 8 epochs", run=method("grad_diff", lr=5e-4, epochs=8)),
    Known("sisa", "honest", "shards on a retrained model, taught all rows; the forget rows deleted", run=sisa),
)


@cache
def task_of(name: str) -> Task:
    """Questions alone: a biography takes as long as its nine questions."""
    if name != "tofu":
        world = expunge.load_task(TASKS[name])
        splits = {split: tuple(row for row in getattr(world, split) if row.kind == "qa") for split in (
            "forget", "retain", "holdout", "neighbour")}
        few = world.utility[::len(world.utility) // UTILITY][:UTILITY]
        return world.model_copy(update=splits | {"utility": few, "background": (*splits["neighbour"], *few),
                                                 "probes": {}, "generation_tokens": 24})
    whole, taken = expunge.load_task(TASKS[name], data_dir=os.environ.get("EXPUNGE_DATA", "../shared/data")), {}
    for split in ("forget", "retain", "holdout"):
        rows = whole.probe_rows(split)  # type: ignore[arg-type]
        taken[split] = tuple(row for i, row in enumerate(rows) if i % 20 < TOFU_ROWS)
    # The probe rows are the forget rows with their published paraphrases, of which some models are made.
    retain = tuple(row for i, row in enumerate(whole.retain) if i % 20 < TOFU_ROWS)
    return whole.model_copy(update={"probes": whole.probes | taken, "forget": taken["forget"], "retain": retain,
                                    "utility": whole.utility[:20], "generation_tokens": 40})


@dataclass(frozen=True)
class Place:
    """The folders of one task."""

    work: Path
    name: str

    def model(self, kind: str) -> Path:
        if self.name == "tofu" and kind in ("original", "retrained 1", "retrained 2"):
            stored = {"original": "original", "retrained 1": "retrained", "retrained 2": "retrained_seed2"}[kind]
            return Path(os.environ.get("EXPUNGE_DATA", "../shared/data")) / "models" / "tofu_tiny" / stored
        return self.work / "models" / slug(self.name) / slug(kind)

    def audit(self, suite: str, what: str) -> Path:
        return self.work / "audits" / suite / slug(self.name) / slug(what)

    @property
    def honest(self) -> list[str]:
        return [f"retrained {i}" for i in range(1, (2 if self.name == "tofu" else HONEST) + 1)]

    @property
    def kinds(self) -> list[Known]:
        return [] if self.name == "world 34" else list(KNOWN)

    def twins(self) -> made.Twins:
        return made.Twins(task_of(self.name), self.load("original"), self.load("retrained 1"), seed=1)

    def load(self, kind: str) -> CausalLM:
        """The model of a kind, with what stands around it."""
        if kind == "exact-match guard":
            return made.guarded(self.twins())
        found = load_subject(self.model(kind))
        assert isinstance(found, CausalLM)
        return made.served(found) if kind == "prompt refusal" else found


def slug(text: str) -> str:
    return text.replace(",", "").replace(" ", "-")


def make(place: Place) -> None:
    """All models of a task that are not there yet."""
    task = task_of(place.name)
    if place.name != "tofu":
        config = place.work / "config.json"
        write_json(config, dict(config_from("tiny")) | SIZE)
        for i, kind in enumerate(["original", *place.honest]):
            if not _done(place.model(kind)):
                began = time.process_time()
                out = place.model(kind)
                expunge.train(config, task=task, out=out, split="retain" if i else "full", seed=i,
                              overwrite=out.exists(), reporter=Reporter(quiet=True), **TRAINING)
                log((place.name, kind, round(time.process_time() - began), "s"))
    for kind in place.kinds:
        out, began = place.model(kind.name), time.process_time()
        if kind.name == "exact-match guard" or kind.name == "original" or _done(out):
            continue
        if kind.run is not None:
            kind.run(task, place.model("original"), place.model("retrained 1"), out)
        elif kind.make is not None:
            kind.make(place.twins()).save(out)
            (out / "made").touch()
        log((place.name, kind.name, round(time.process_time() - began), "s"))


def _done(out: Path) -> bool:
    record = out / "record.json"
    return (out / "made").exists() or (record.exists() and read_json(record)["status"] in ("finished", "stopped"))


def audit(place: Place, suite: str, subject: str, controls: tuple[str, ...], what: str) -> None:
    """One audit, unless it is there under this very suite."""
    out, asked = place.audit(suite, what), parse_suite(suite)
    if (out / "audit.json").exists() and Audit.read(out / "audit.json").suite == asked.terms:
        return
    out.mkdir(parents=True, exist_ok=True)
    began = time.process_time()
    roles = Roles(place.load(subject), partial(place.load, "original"), tuple(partial(place.load, c) for c in controls),
                  again=partial(place.load, subject))
    found = run_audit(roles, task_of(place.name), asked, out, announce=silent, cache=ObservationCache(),
                      settings=AuditSettings(suite=suite, resamples=RESAMPLES))
    log((place.name, suite, what, found.verdict and found.verdict.outcome, found.verdict and found.verdict.alone,
         round(time.process_time() - began), "s"))


def pairs(place: Place) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Ten audits of honest models: eight beside two others, two beside one."""
    names = place.honest
    if len(names) < 3:
        yield from ((a, (b,)) for a in names for b in names if a != b)
        return
    beside = [(subject, others) for subject in names for others in combinations([n for n in names if n != subject], 2)]
    yield from [pair for i, pair in enumerate(beside) if i % 3 < 2]
    yield names[2], names[:1]  # type: ignore[misc]
    yield names[3], names[1:2]  # type: ignore[misc]


def run(place: Place, phase: str, suite: str) -> None:
    if phase == "make":
        make(place)
    elif phase == "audit":
        subjects = [k.name for k in place.kinds] + [s for s in SUBJECTS if s in place.honest and place.kinds]
        for name in subjects:
            audit(place, suite, name, ("retrained 1", "retrained 2"), name)
    else:
        for subject, controls in pairs(place):
            audit(place, suite, subject, tuple(controls), f"pair {subject} beside {' and '.join(controls)}")


def outcome(folder: Path, suite: str, again: bool) -> dict[str, Any]:
    """What an audit says by the rules of this commit, and which attacks told.

    Args:
        again: take the scores anew from the observations too, not the verdict alone.
    """
    found = rescore(folder, parse_suite(suite), resamples=RESAMPLES) if again else Audit.read(folder / "audit.json")
    assert found.verdict is not None
    scores, power = found.scores, found.verdict.power
    verdict, decision = judged(scores, found.attacks, power=power), decide(scores, power=power)
    plain = {base(s): s.value for s in scores if s.attack is None and s.value is not None}
    by = {s.attack: None for s in (*leaks(scores), *revealed(scores))}
    raised = {s.attack: None for s in (*alarms(scores), *suspected(scores)) if s.attack not in by}
    return {"outcome": verdict.outcome, "alone": decision.alone.outcome, "reason": decision.alone.reason,
            "inside": [s.name for s in decision.inside], "succeeded": list(by), "alarms": list(raised),
            "could_not_count": list(decision.untold), "controls": [c.problem for c in found.controls],
            "plain": {n: plain.get(n) for n in ("forget.probability", "leak_share", "forget_quality",
                                                "retain.probability")}}


def collect(work: Path, keep: bool, again: bool) -> None:
    """Judge all finished audits again, and store the outcomes."""
    rows, honest = [], []
    for suite in ("quick", "standard"):
        for name in TASKS:
            place = Place(work, name)
            for kind in (*place.kinds, *(Known(s, "honest", "") for s in SUBJECTS)):
                folder = place.audit(suite, kind.name)
                if (folder / "audit.json").exists():
                    rows.append({"suite": suite, "task": name, "kind": kind.name, "truth": kind.truth,
                                 **outcome(folder, suite, again)})
                    log(list(rows[-1].values())[:6])
            for subject, controls in pairs(place):
                folder = place.audit(suite, f"pair {subject} beside {' and '.join(controls)}")
                if (folder / "audit.json").exists():
                    honest.append({"suite": suite, "task": name, "subject": subject, "controls": list(controls),
                                   **outcome(folder, suite, again)})
                    log(list(honest[-1].values())[:5])
    if keep and "dirty" not in (environment()["commit"] or "dirty"):
        log((store("known", {"tasks": TASKS, "size": SIZE, "training": TRAINING, "resamples": RESAMPLES,
                             "kinds": {k.name: {"truth": k.truth, "how": k.how} for k in KNOWN},
                             "rows": rows, "pairs": honest}),))
    else:
        (work / "known.json").write_text(json.dumps({"rows": rows, "pairs": honest}, indent=1))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("phase", choices=("make", "audit", "pairs", "collect"))
    parser.add_argument("tasks", nargs="*", default=list(TASKS), help="; ".join(TASKS))
    parser.add_argument("--suite", default="quick", choices=("quick", "standard"))
    parser.add_argument("--work", type=Path, default=Path("known"), help="folder for models and audits")
    parser.add_argument("--rescore", action="store_true", help="collect: take the scores anew too, from the rows")
    parser.add_argument("--keep", action="store_true", help="store results/known.json, from a clean tree")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.phase == "collect":
        collect(given.work, given.keep, given.rescore)
    else:
        for task in given.tasks:
            run(Place(given.work, task), given.phase, given.suite)
