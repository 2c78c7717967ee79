"""Does it come back, and what does a student learn of the forgotten? Shrunk weights taught anew, beside plain npo.

    OMP_NUM_THREADS=1 python experiments/robust.py --work FOLDER [--worlds 7 8 9]
    python experiments/robust.py --work FOLDER --collect

Writes results/robust.json. Small worlds that serve for tuning, each with two retrained models as controls. Rows lie
under --work, so that an interrupted call goes on. Cost is the share of the gradient positions of retraining.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from common import kept_rows, log, started, store, study_parser

import expunge
from expunge.console import Reporter
from expunge.demonstration import trained_world
from expunge.models.load import load_subject
from expunge.models.subject import Subject
from expunge.records.base import write_json
from expunge.records.run import RunRecord
from expunge.records.score import Audit
from expunge.records.task import Example, Task

SIZE = "forget=6,retain=18,holdout=6,neighbours=0"
EPOCHS, BATCH = 8, 8
NPO = "npo + retain_nll(weight=3) + adamw(lr=1.5e-4, weight_decay=0)"
TEACHING = "+ adamw(lr=3e-3, weight_decay=0)"
SHRUNK = "shrink_perturb(alpha=0.8, beta=0)"
DAMPENED = "ssd(alpha=1.2, lambda_=0.03)"
RECIPES = {
    "npo": NPO,
    "npo, shrunk, taught all probabilities": f"{NPO} >> {SHRUNK} >> distil(epochs=12) {TEACHING}",
    "npo, shrunk, taught first choices": f"{NPO} >> {SHRUNK} >> distil(epochs=12, likeliest=1) {TEACHING}",
    "shrunk, taught all probabilities": f"{SHRUNK} >> distil(teacher='original', epochs=13) {TEACHING}",
    "shrunk, taught first choices": f"{SHRUNK} >> distil(teacher='original', epochs=13, likeliest=1) {TEACHING}",
    "shrunk and perturbed, taught first choices":
        f"shrink_perturb(alpha=0.8, beta=0.3) >> distil(teacher='original', epochs=13, likeliest=1) {TEACHING}",
    "fresh weights, taught all probabilities":
        f"shrink_perturb(alpha=1, beta=1) >> distil(teacher='original', epochs=13) {TEACHING}",
    "fresh weights, taught first choices":
        f"shrink_perturb(alpha=1, beta=1) >> distil(teacher='original', epochs=13, likeliest=1) {TEACHING}",
    "dampened, taught first choices": f"{DAMPENED} >> distil(teacher='original', epochs=12, likeliest=1) {TEACHING}",
    "dampened, taught first choices for 4 passes":
        f"{DAMPENED} >> distil(teacher='original', epochs=4, likeliest=1) {TEACHING}",
}
SUITE = "forget_quality,leak_share,forget.probability,retain.probability,forget.keyword,relearn(at=[16, 48])"


def begins(name: str, piece: str) -> bool:
    """Whether a token begins one of the words of a name."""
    word = piece.strip()
    return bool(word) and any(part.startswith(word) for part in name.split())


def names_known(subject: Subject, retrained: Subject, rows: tuple[Example, ...]) -> float:
    """Mean log-probability of the tokens that begin a name of the row's entity in its answer, above the retrained
    model's; nats."""
    found: list[float] = []
    for row in rows:
        encoded = subject.encoder.encode(row)
        mine, theirs = (m.answers(m.collate([encoded])).logp_N.tolist() for m in (subject, retrained))
        for token, a, b in zip(encoded.ids[encoded.prompt:], mine, theirs, strict=False):
            if begins(row.entity, subject.encoder.processor.decode([token])):
                found.append(a - b)
    return sum(found) / len(found)


@torch.no_grad()
def names_above_holdout(place: Path, retrained: Path, task: Task) -> float:
    """The same of forget rows less that of holdout rows: what the model knows of the names themselves."""
    subject, twin = (load_subject(p, template=task.template) for p in (place, retrained))
    questions = {split: tuple(r for r in task.split(split) if r.kind == "qa") for split in ("forget", "holdout")}
    return names_known(subject, twin, questions["forget"]) - names_known(subject, twin, questions["holdout"])


def one(seed: int, name: str, recipe: str, work: Path) -> None:
    place = work / f"{name.replace(' ', '-').replace(',', '')}-{seed}"
    if (place / "row.json").exists():
        return
    task = expunge.load_task(f"authors({SIZE})", seed=seed)
    original = trained_world(task, "full", seed=seed)
    retrained = [trained_world(task, "retain", seed=seed + i) for i in (1, 2)]
    quiet = Reporter(quiet=True)
    record = expunge.forget(original, task=task, method=recipe, out=place, seed=seed, epochs=EPOCHS, batch_size=BATCH,
                            keep="last", resume=place.exists(), reporter=quiet)
    found = expunge.audit(place, task=task, original=original, retrained=retrained, suite=SUITE, seed=seed,
                          overwrite=(place / "audit.json").exists(), reporter=quiet)
    assert isinstance(record, RunRecord) and isinstance(found, Audit) and found.verdict is not None
    plain = {s.name: s for s in found.scores if s.attack is None}
    kept = plain["retain.probability"]
    after = {s.attack: s for s in found.scores if s.attack and s.name == "forget.probability"}
    row: dict[str, Any] = {
        "world": seed, "name": name, "recipe": recipe, "cost": record.timing.get("of_retraining"),
        "forget_quality": plain["forget_quality"].value, "leak_share": plain["leak_share"].value,
        "keyword": plain["forget.keyword"].value, "keyword_retrained": plain["forget.keyword"].controls["retrained"],
        "utility": (kept.value or 0.0) / (kept.controls["original"] or 1.0),
        "names": names_above_holdout(place, retrained[0], task), "outcome": found.verdict.outcome,
        "relearned": {label: {"value": s.value, "excess": s.excess} for label, s in after.items()}}
    write_json(place / "row.json", row)
    log(tuple(row.values()))


def collect(work: Path) -> None:
    rows = kept_rows(work)
    order = list(RECIPES)
    rows.sort(key=lambda r: (order.index(r["name"]), r["world"]))
    log((store("robust", {"size": SIZE, "epochs": EPOCHS, "suite": SUITE, "rows": rows}), len(rows)))


if __name__ == "__main__":
    parser = study_parser(__doc__)
    parser.add_argument("--worlds", type=int, nargs="+", default=[7, 8, 9])
    given = started(parser)
    if given.collect:
        collect(given.work)
    else:
        for world in given.worlds:
            for called, what in RECIPES.items():
                one(world, called, what, given.work)
