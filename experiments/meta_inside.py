"""Which metric that looks inside deserves trust? Faithfulness of depth, lens, probes and CKA on models of known truth.

    OMP_NUM_THREADS=1 python experiments/meta_inside.py --work FOLDER [--settings 2]
    python experiments/meta_inside.py --work FOLDER --collect

Writes results/meta_inside.json. Models and protocol are those of meta.py: three kinds were taught the forget facts and
three were not, in two sizes, fine-tuned from one base. Faithfulness is the area under the ROC curve of a metric over
them. The original, the retrained control and, for robustness, the unlearned models are not in the pool: each is read as
it is, rounded to four bits, and relearned for an epoch. Readings lie under --work, so that an interrupted call goes on.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import meta
from common import log, started, store, study_parser
from meta_table import CONDITIONS, shown

from expunge.attacks.base import AttackContext, View, parse_attack
from expunge.audit.cache import ObservationCache
from expunge.audit.runner import Roles, run_audit
from expunge.audit.suite import parse_suite
from expunge.judgement.trust import Known, Readings, trust
from expunge.metrics.evaluate import parse_metric
from expunge.models.load import load_subject
from expunge.progress import silent
from expunge.records.base import read_json, write_json
from expunge.records.settings import AuditSettings

METRICS = ("uds", "forget.logit_lens", "linear_probe", "transfer_probe", "forget.cka", "forget.hidden_knowledge",
           "conflict")
UNLEARNING = ("npo + retain_nll(weight=3)", "rmu(layer=1, coefficient=60, alpha=3)", "undial + retain_nll(weight=3)")
RATE = 4e-3
SUITE = ",".join(METRICS)


def read(place: Path, size: str, condition: str, work: Path) -> None:
    """All metrics of one model under one condition; a reading on disk is not taken again."""
    out = work / "inside" / f"{place.name}.{condition}.json"
    if out.exists():
        return
    suite, task = parse_suite(SUITE), meta.world()

    def ask(view: View) -> None:
        roles = Roles(view.subject, partial(load_subject, meta.train(meta.original(size), work)),
                      (partial(load_subject, meta.train(meta.controls(size)[0], work)),))
        found = run_audit(roles, task, suite, work / "audits" / out.stem, announce=silent, cache=ObservationCache(),
                          settings=AuditSettings(suite=SUITE, resamples=0))
        write_json(out, {s.name: s.value for s in found.scores})

    subject = load_subject(place)
    if condition == "plain":
        ask(View("", subject, task.probe_rows))
    else:
        parse_attack(CONDITIONS[condition]).run(subject, AttackContext.of(task), ask)
    log((out.stem, read_json(out)))


def everything(work: Path, settings: int) -> Iterator[tuple[Path, dict[str, Any], tuple[str, ...]]]:
    """Every model: its folder (made where it is missing), what it is, and under which conditions it is asked."""
    seeds = {seed for seed, *_ in meta.SETTINGS[:settings]}
    for model in meta.pool():
        if model.seed in seeds:
            conditions = (*CONDITIONS, "plain") if model.kind == "retain" else ("plain",)
            yield meta.train(model, work), {"role": "pool", "size": model.size, "kind": model.kind,
                                            "knows": model.kind in meta.KNOWING}, conditions
    for recipe in UNLEARNING:
        for size in meta.SIZES:
            yield meta.unlearned(size, recipe, RATE, work), {"role": "unlearned", "size": size,
                                                             "recipe": recipe}, ("plain", *CONDITIONS)


def oriented(name: str, value: float) -> float:
    """The value, higher where the model knows, between 0 and 1."""
    metric, _ = parse_metric(name)
    return 1 - value if metric.card.higher_is == "forgot" else value


def judged(models: list[dict[str, Any]]) -> dict[str, Any]:
    table = {}
    for name in METRICS:
        read_of = [m | {"values": {c: oriented(name, r[name]) for c, r in m["readings"].items()}} for m in models
                   if all(r.get(name) is not None for r in m["readings"].values())]
        pool = [m for m in read_of if m["role"] == "pool"]
        gains = {size: [m["values"]["relearned"] - m["values"]["plain"] for m in pool
                        if m["size"] == size and m["kind"] == "retain"] for size in meta.SIZES}
        found = trust([Known(m["kind"], m["knows"], m["values"]["plain"], m["size"]) for m in pool],
                      [Readings(m["values"]["plain"], m["values"]["relearned"], m["values"]["quantised"], m["recipe"],
                                m["size"]) for m in read_of if m["role"] == "unlearned"], gains)
        table[name] = {"pool": len(pool), **shown(found)}
    return table


def collect(work: Path, settings: int) -> None:
    models = [{"name": place.name, **what, "readings": {
        c: read_json(work / "inside" / f"{place.name}.{c}.json") for c in conditions}}
        for place, what, conditions in everything(work, settings)]
    table = judged(models)
    store("meta_inside", {"world": meta.WORLD, "settings": meta.SETTINGS[:settings], "unlearning": UNLEARNING,
                          "rate": RATE, "conditions": CONDITIONS, "models": models, "table": table})
    for name, row in table.items():
        log((name, row["pool"], row["faithfulness"], row["worst_fold"], row["worst_fold_auc"], row["symmetric"]))


if __name__ == "__main__":
    parser = study_parser(__doc__)
    parser.add_argument("--settings", type=int, default=2, help="how many settings of meta.py's pool are taken")
    given = started(parser)
    if given.collect:
        collect(given.work, given.settings)
    else:
        for folder, model, conditions in everything(given.work, given.settings):
            for condition in conditions:
                read(folder, model["size"], condition, given.work)
