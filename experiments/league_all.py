"""Every method of the registry on a small world: the same few trials for each, then three worlds under attack.

    OMP_NUM_THREADS=1 python experiments/league_all.py --work FOLDER [--part 1/2] [--only NAME ...]
    python experiments/league_all.py --work FOLDER --collect

Writes results/league_all.json. Trials take the options of each card and three learning rates, on a world that is not
in the table; what has no rate draws its options from its own space, as `expunge sweep` does. The best has the lowest
leak share, plus four for every share of the original's retain probability below 0.95. World by world, so that an
interrupted call leaves a table of fewer worlds. Rows lie under --work and in the stored file: a stored row is not
measured again.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from cells import results
from common import RESULTS, log, started, store, study_parser
from league import METHODS as EARLIER

import expunge
from expunge.console import Reporter
from expunge.demonstration import trained_world
from expunge.errors import ExpungeError, InterruptedRun, PreflightError
from expunge.records.base import read_json, write_json
from expunge.records.run import RunRecord
from expunge.records.score import Audit, Score
from expunge.records.sweep import Trial
from expunge.records.task import Task
from expunge.report.bench import penalty
from expunge.tuning import _draw, filled, optuna_or_why

WORLD = "authors(forget=6,retain=18,holdout=6,neighbours=0)"
TUNING_WORLD, WORLDS = 7, (10, 11, 12)
EPOCHS, BATCH = 6, 8
RATES = (3e-4, 1e-3, 3e-3)
TRIALS = len(RATES)
CHOOSING = "leak_share,retain.probability"
SUITE = f"{CHOOSING},forget_quality,forget.probability,quantise,relearn(steps=16)"
BASE = "npo + retain_nll"
METHODS: dict[str, str] = EARLIER | {
    "adaptive": "adaptive", "attention_shift": "attention_shift", "bidirectional": "bidirectional",
    "cir": "cir + project_shared", "dmm": "dmm", "icu": "icu", "in_context": "in_context + retain_nll",
    "jensun": "jensun", "knowpo": "knowpo", "kuda": "kuda", "l1_sparse": "l1_sparse", "pop": "pop",
    "probe_geometry": "probe_geometry", "prod": "prod + retain_nll", "rule": "rule", "srmu": "srmu",
    "stepping_stones": "stepping_stones + retain_nll", "tru": "tru + retain_nll", "u2a": "u2a + retain_nll",
    "wpn": "wpn + retain_nll", "roka": "roka", "sae_guided": "sae_guided + retain_nll", "ph3": "ph3",
    "override_gap": "override_gap", "consensus": "consensus",
    "retain_js": "npo + retain_js", "gere": "npo + gere", "lfu": "npo + lfu",
    "activation_match": "npo + activation_match", "attention_drift": f"{BASE} + attention_drift",
    "retain_attention": f"{BASE} + retain_attention", "retain_kl_top": "npo + retain_kl_top",
    "retain_replay": "npo + retain_replay",
    "gru": "npo + retain_nll + gru", "ofmu": "npo + retain_nll + ofmu", "pdu": "ga + retain_nll + pdu",
    "sign_agree": "npo + retain_nll + sign_agree",
    "curvature": f"{BASE} + curvature", "forked_adversary": f"{BASE} + forked_adversary",
    "gradient_penalty": f"{BASE} + gradient_penalty", "ilu": f"{BASE} + ilu", "lau": f"{BASE} + lau",
    "relearn_inside": f"{BASE} + relearn_inside",
    "klue": f"{BASE} + klue", "null_space": f"{BASE} + null_space", "prune_first": f"{BASE} + prune_first",
    "reglu": f"{BASE} + reglu", "guard_weights": f"{BASE} + guard_weights", "paired": f"{BASE} + paired",
    "ignore_k": f"{BASE} + ignore_k", "sparse_steps": f"{BASE} + sparse_steps",
    "holdout_level": f"{BASE} + holdout_level", "adv_ga": "adv_ga", "adv_npo": "adv_npo", "adv_rmu": "adv_rmu",
    "mudman": "mudman",
    "rome": "rome", "memit": "memit", "alphaedit": "alphaedit", "stamp": "stamp", "lunar": "lunar",
    "concept_vectors": "concept_vectors", "pisces": "pisces", "tall_masks": "tall_masks", "iau": "iau",
    "repselect": "repselect", "shrink_perturb": "shrink_perturb", "ssd, retaught":
    "ssd >> distil(teacher='original', likeliest=1, epochs=6) + adamw(lr=3e-3)",
}
"""Name -> recipe; the earlier league's, and all that came after it."""
LONG = ("ofmu", "rome", "memit", "alphaedit", "dmm", "rule", "icu", "knowpo", "pop", "adaptive", "bidirectional")
"""They sample answers, train many models or descend anew for every row."""
FIRST = ("npo", "simnpo", "ssd", *(name for name in METHODS if name not in EARLIER and name not in LONG), *LONG)
"""Three to compare with, and what the earlier league does not hold."""
LENGTH: dict[str, dict[str, Any]] = {name: {"steps": 48} for name in ("balanced", "melu", "guard_weights", "paired")}
"""Their epochs walk other rows; six epochs of the forget rows are 48 steps."""


def length(name: str) -> dict[str, Any]:
    return {"batch_size": BATCH, **LENGTH.get(name, {"epochs": EPOCHS})}


def slug(name: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in name)


def world(seed: int) -> tuple[Task, Path, Path]:
    task = expunge.load_task(WORLD, seed=seed)
    return task, trained_world(task, "full", seed=seed), trained_world(task, "retain", seed=seed + 1)


def judged(place: Path, seed: int, suite: str, resamples: int) -> dict[str, Score]:
    task, original, retrained = world(seed)
    found = expunge.audit(place, task=task, original=original, retrained=[retrained], suite=suite, seed=seed,
                          resamples=resamples, overwrite=True, reporter=Reporter(quiet=True))
    assert isinstance(found, Audit)
    return {s.name: s for s in found.scores if s.attack is None} | {
        str(s.attack): s for s in found.scores if s.attack and s.name == "forget.probability"}


def why(problem: Exception) -> str:
    """What is wrong, in a line."""
    first = problem.problems[0] if isinstance(problem, PreflightError) else problem
    return first.what if isinstance(first, ExpungeError) else repr(first)[:200]


def run(name: str, recipe: str, rate: Any, seed: int, place: Path) -> RunRecord:
    task, original, _ = world(seed)
    record = expunge.forget(original, task=task, method=recipe, out=place, seed=seed, lr=rate, keep="last",
                            overwrite=place.exists(), reporter=Reporter(quiet=True), **length(name))
    assert isinstance(record, RunRecord)
    return record


def kept(scores: dict[str, Score]) -> float:
    score = scores["retain.probability"]
    return (score.value or 0.0) / (score.controls["original"] or 1.0)


def tuned(name: str, work: Path) -> dict[str, Any]:
    """The trials of one method, and the best of them; or why it cannot run."""
    path = work / f"tuned-{slug(name)}.json"
    if path.exists():
        return dict(read_json(path))
    task, original, retrained = world(TUNING_WORLD)
    row: dict[str, Any] = {"name": name, "method": METHODS[name], "trials": []}
    try:
        sweep = expunge.sweep(METHODS[name], out=work / "none", task=task, model=original, retrained=[retrained],
                              trials=TRIALS, seed=TUNING_WORLD, dry_run=True, **length(name))
        for number in range(TRIALS):
            params = {"lr": RATES[number]} if "lr" in sweep.space else _draw(optuna_or_why(), sweep, number)
            recipe, rate, place = filled(METHODS[name], params), params.get("lr"), work / f"trial-{slug(name)}"
            sweep = sweep.model_copy(update={"trials": (*sweep.trials, Trial(number=number, params=params,
                                                                             recipe=recipe))})
            trial: dict[str, Any] = {"recipe": recipe, "lr": rate}
            try:
                run(name, recipe, rate, TUNING_WORLD, place)
                scores = judged(place, TUNING_WORLD, CHOOSING, 0)
                leak, share = scores["leak_share"].value or 0.0, kept(scores)
                trial |= {"leak_share": leak, "kept": share, "rank": -penalty(leak, share)}
            except InterruptedRun:
                raise
            except Exception as problem:  # it diverged, or it is a defect: a finding, not the end
                trial |= {"failed": why(problem)}
            finally:
                shutil.rmtree(place, ignore_errors=True)
            row["trials"].append(trial)
        best = max((t for t in row["trials"] if "rank" in t), key=lambda t: t["rank"], default=None)
        row |= {"recipe": best["recipe"], "lr": best["lr"]} if best else {"refused": row["trials"][0]["failed"]}
    except InterruptedRun:
        raise
    except ExpungeError as problem:  # these rows or this model do not allow it, or it leaves nothing to search
        row |= {"refused": why(problem)}
    write_json(path, row)
    return row


def measure(name: str, seed: int, work: Path) -> None:
    """The setting chosen, on a world nobody tuned on."""
    best, path, place = tuned(name, work), work / f"row-{slug(name)}-{seed}.json", work / f"run-{slug(name)}"
    if path.exists() or "recipe" not in best:
        return
    row: dict[str, Any] = {"name": name, "world": seed}
    try:
        record = run(name, best["recipe"], best["lr"], seed, place)
        scores = judged(place, seed, SUITE, 200)
        row |= {"kept": kept(scores), "cost": record.timing.get("of_retraining"), "train_s": record.timing["train_s"],
                "commit": record.environment["commit"],
                "scores": {key: {"value": s.value, "excess": s.excess} | dict(s.controls) for key, s in scores.items()}}
    except InterruptedRun:
        raise
    except Exception as problem:
        row |= {"failed": why(problem)}
    finally:
        shutil.rmtree(place, ignore_errors=True)
    write_json(path, row)
    log((name, seed, best["recipe"], best["lr"], row.get("failed"), row.get("kept"),
         {key: s["value"] for key, s in row.get("scores", {}).items()}))


def stored() -> list[dict[str, Any]]:
    return list(results("league_all")["rows"]) if (RESULTS / "league_all.json").exists() else []


def collect(work: Path) -> None:
    rows = {row["name"]: row for row in stored()}
    for name in METHODS:
        if (work / f"tuned-{slug(name)}.json").exists():
            found = [read_json(work / f"row-{slug(name)}-{seed}.json") for seed in WORLDS
                     if (work / f"row-{slug(name)}-{seed}.json").exists()]
            rows[name] = tuned(name, work) | {"worlds": found}
    ordered = [rows[name] for name in METHODS if name in rows]
    log((store("league_all", {"world": WORLD, "tuning_world": TUNING_WORLD, "rates": RATES, "epochs": EPOCHS,
                              "batch_size": BATCH, "suite": SUITE, "rows": ordered}), len(ordered)))


if __name__ == "__main__":
    parser = study_parser(__doc__)
    parser.add_argument("--part", default="1/1", help="which of how many processes this is")
    parser.add_argument("--only", nargs="+", default=None, help="names of methods")
    parser.add_argument("--worlds", type=int, nargs="+", default=WORLDS)
    given = started(parser)
    if given.collect:
        collect(given.work)
    else:
        part, parts = map(int, given.part.split("/"))
        done = {(row["name"], w["world"]) for row in stored() for w in row.get("worlds", ())}
        for seed in given.worlds:
            for called in (given.only or [*FIRST, *(name for name in METHODS if name not in FIRST)])[part - 1:: parts]:
                if (called, seed) not in done:
                    measure(called, seed, given.work)
