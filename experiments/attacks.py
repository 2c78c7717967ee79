"""Every method under every attack of a suite, and the models of which the outcome is known.

Work lies under --work, one folder per model, so that an interrupted call goes on and several processes may share
it (`--part 1/2`). `forget` makes the models, `audit` attacks them, `collect` stores results/known.json and
results/attacks.json, `draw` makes the figure and the page of the latter.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common import RESULTS, log, standing, store
from jinja2 import Environment
from markupsafe import Markup

import expunge
from expunge.audit.runner import rescore
from expunge.audit.suite import suite_from_terms
from expunge.console import Reporter
from expunge.demonstration import trained_world
from expunge.errors import ExpungeError
from expunge.records.base import read_json
from expunge.records.score import Audit
from expunge.report.attack_matrix import ALONE, matrix, reason, svg

DOCS = RESULTS.parent / "docs"
PLAIN = ("forget_quality", "model_utility", "forget.probability", "forget.keyword", "retain.probability", "mia.loss")
SHOWN = ("forget.probability", "forget.keyword")
RESAMPLES = 400
EPOCHS, BATCH, WORLDS = 6, 8, (0, 1, 2)
LONGER = {"balanced": {"steps": 78}, "melu": {"steps": 78}}
"""Their epochs walk the retain rows."""
KNOWN: dict[str, dict[str, Any]] = {
    "idk": {"method": "idk", "lr": 1e-3, "epochs": 12},
    "rmu": {"method": "rmu(layer=1, coefficient=60, alpha=3)", "lr": 3e-3, "epochs": 12},
    "grad_diff": {"method": "grad_diff", "lr": 5e-4, "epochs": 8},
}
"""Models of which we know what an honest audit has to find; strong enough that they look unlearned."""


@dataclass(frozen=True)
class Job:
    """One unlearned model of one world."""

    group: str
    name: str
    world: int
    method: str
    lr: float | None
    length: dict[str, Any]

    @property
    def slug(self) -> str:
        return f"{self.group}-{self.name.replace(' ', '').replace('+', '-')}-{self.world}"


def jobs() -> Iterator[Job]:
    """The known ones on three worlds, then every method of the league with its tuned setting on the first."""
    for world in WORLDS:
        for name, how in KNOWN.items():
            yield Job("known", name, world, how["method"], how["lr"], {"epochs": how["epochs"]})
    rows = [r for r in read_json(RESULTS / "league.json")["rows"] if r["seed"] == WORLDS[0]]
    for row in sorted(rows, key=lambda r: -standing([r])):
        length = LONGER.get(row["base"], {"epochs": EPOCHS})
        yield Job("matrix", row["base"], WORLDS[0], row["recipe"], row["lr"], length)


def twins(world: int) -> tuple[Any, Path, Path, Path]:
    """Task, original, retrained, and a second retrained model for the noise floor."""
    task = expunge.load_task("authors", seed=world)
    return (task, trained_world(task, "full", seed=world), trained_world(task, "retain", seed=world + 1),
            trained_world(task, "retain", seed=world + 11))


def make(job: Job, work: Path) -> Path | None:
    """The unlearned model; a finished one is left alone, one that fails is a result too."""
    out = work / "runs" / job.slug
    if (out / "record.json").exists() and read_json(out / "record.json")["status"] in ("finished", "stopped"):
        return out
    task, original, _, _ = twins(job.world)
    try:
        expunge.forget(original, task=task, method=job.method, lr=job.lr, batch_size=BATCH, seed=job.world, out=out,
                       keep="last" if job.group == "known" else "best", overwrite=out.exists(),
                       reporter=Reporter(quiet=True), **job.length)
    except ExpungeError as problem:
        log(("failed", job.slug, problem.what))
        return None
    log(("made", job.slug))
    return out


def attack(job: Job, work: Path, suite: str) -> None:
    """Audit it under the suite, unless that is done."""
    out, place = make(job, work), work / "audits" / job.slug
    if out is None or (place / "audit.json").exists():
        return
    task, original, retrained, second = twins(job.world)
    found = expunge.audit(out, task=task, original=original, retrained=[retrained, second], suite=suite, out=place,
                          seed=job.world, resume=place.exists(), reporter=Reporter(quiet=True))
    log((job.slug, found.verdict.outcome if found.verdict else "", round(found.timing["observe_s"])))


def controls(work: Path, suite: str) -> None:
    """A third retrained model of every world, which has to pass, and the original, which must not."""
    for world in WORLDS:
        task, original, retrained, second = twins(world)
        third = trained_world(task, "retain", seed=world + 21)
        for name, model in (("retrained", third), ("original", original)):
            place = work / "audits" / f"known-{name}-{world}"
            if not (place / "audit.json").exists():
                found = expunge.audit(model, task=task, original=original, retrained=[retrained, second], suite=suite,
                                      out=place, seed=world, resume=place.exists(), reporter=Reporter(quiet=True))
                log((place.name, found.verdict.outcome if found.verdict else ""))


def judged(place: Path) -> Audit:
    """An audit scored and judged again from its rows, so that all of them stand under the rules of this commit."""
    return rescore(place, suite_from_terms(Audit.read(place / "audit.json").suite), resamples=RESAMPLES)


def collect_known(work: Path) -> None:
    """results/known.json: what is said of models of which the truth is known."""
    known = []
    for place in sorted((work / "audits").glob("known-*")):
        audit, (_, name, world) = judged(place), place.name.split("-")
        assert audit.verdict is not None
        plain = {s.name: {"value": s.value, **s.controls} for s in audit.scores if s.attack is None and s.name in PLAIN}
        under = [{"attack": s.attack, "score": s.name, "value": s.value, "before": s.before,
                  "control": s.controls.get("retrained"), "excess": s.excess, "interval": s.excess_interval,
                  "leaks": s.succeeded}
                 for s in audit.scores if s.attack and s.name in SHOWN and s.value is not None]
        known.append({"name": name, "world": int(world), "outcome": audit.verdict.outcome, "alone": audit.verdict.alone,
                      "threats": {t.access: {"outcome": t.outcome, "strongest": t.strongest}
                                  for t in audit.verdict.threats}, "plain": plain, "attacked": under})
    log((store("known", {"models": KNOWN, "worlds": WORLDS, "rows": known}), len(known)))


def collect_matrix(work: Path) -> None:
    """results/attacks.json, docs/attacks.svg and docs/attacks.html, of every method that was audited."""
    rows = []
    for job in jobs():
        place = work / "audits" / job.slug
        if job.group == "matrix" and (place / "audit.json").exists():
            rows.append((job, judged(place)))
    found = matrix([(job.name, audit) for job, audit in rows])
    store("attacks", {"world": WORLDS[0], "suite": list(rows[0][1].suite), "matrix": found, "methods": [
        {"name": job.name, "recipe": job.method, "lr": job.lr, "outcome": audit.verdict and audit.verdict.outcome,
         "alone": audit.verdict and audit.verdict.alone,
         "commit": audit.environment.get("commit")} for job, audit in rows]})
    draw()
    log((len(rows), "methods"))


PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Every method under every attack</title>
<style>
body { font: 14px/1.5 sans-serif; margin: 2rem; color: #1d2330 } td, th { padding: 2px 6px; text-align: right }
th { font-weight: normal; white-space: nowrap } table { border-collapse: collapse } .won { outline: 2px solid #1d2330 }
thead th { writing-mode: vertical-rl; transform: rotate(180deg); text-align: left } p { max-width: 60rem }
</style>
<h1>Every method under every attack</h1>
<p>{{ metric }} under each attack beyond the same attack on a retrained model, on the world authors(seed={{ world }});
the first row is the model left alone. Framed: the attack succeeded, bringing out more than plain asking does and more
than of the control. Point at a cell for its figures. Data: results/attacks.json (commit {{ commit }}).</p>
{{ picture }}
<table><thead><tr><th></th>{% for m in methods %}<th>{{ m }}</th>{% endfor %}</tr></thead>
{% for label, cells in lines %}<tr><th>{{ label }}</th>{% for text, why, won in cells %}<td title="{{ why }}"
{%- if won %} class="won"{% endif %}>{{ text }}</td>{% endfor %}</tr>
{% endfor %}</table>
<h2>Methods</h2>
<table>{% for m in recipes %}<tr><th>{{ m.name }}</th><th style="text-align: left">{{ m.recipe }}</th><td>
{{- m.outcome }}</td></tr>{% endfor %}</table>
</html>
"""


def draw() -> None:
    """docs/attacks.svg and docs/attacks.html from what is stored."""
    stored = read_json(RESULTS / "attacks.json")
    found, picture = stored["matrix"], svg(stored["matrix"])
    cells = {(c["attack"], c["method"]): c for c in found["cells"]}
    lines = [(a["label"] or ALONE, [
        (f"{c['excess']:.2f}" if c and "excess" in c else "–", reason(c, found["metric"]), c and c.get("leaks"))
        for c in (cells.get((a["label"], m)) for m in found["methods"])]) for a in found["attacks"]]
    page = Environment(autoescape=True).from_string(PAGE).render(
        metric=found["metric"], world=stored["world"], commit=stored["environment"]["commit"], picture=Markup(picture),
        methods=found["methods"], lines=lines, recipes=stored["methods"])
    (DOCS / "attacks.svg").write_text(picture)
    (DOCS / "attacks.html").write_text(page)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("attacks"), help="folder for models and audits")
    parser.add_argument("--phase", choices=("forget", "audit", "collect", "draw"), default="audit")
    parser.add_argument("--group", choices=("known", "matrix"), default=None)
    parser.add_argument("--suite", default="standard")
    parser.add_argument("--part", default="1/1", help="which of how many processes this is")
    given = parser.parse_args()
    if given.phase == "draw":
        draw()
        raise SystemExit
    if given.phase == "collect":
        if given.group != "matrix":
            collect_known(given.work)
        if given.group != "known":
            collect_matrix(given.work)
        raise SystemExit
    index, parts = map(int, given.part.split("/"))
    chosen = [j for j in jobs() if given.group in (None, j.group)][index - 1:: parts]
    for job in chosen:
        if given.phase == "forget":
            make(job, given.work)
        else:
            attack(job, given.work, given.suite)
    if given.phase == "audit" and given.group != "matrix" and index == 1:
        controls(given.work, given.suite)
