"""Every method under every attack of a suite.

Work lies under --work, one folder per model, so that an interrupted call goes on and several processes may share
it (`--part 1/2`). `forget` makes the models, `audit` attacks them, `collect` stores results/attacks.json, `draw` makes
its figure and page. Models of which the outcome is known: known.py.
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
RESAMPLES = 400
EPOCHS, BATCH, WORLD = 6, 8, 0
LONGER = {"balanced": {"steps": 78}, "melu": {"steps": 78}}
"""Their epochs walk the retain rows."""


@dataclass(frozen=True)
class Job:
    """One unlearned model."""

    name: str
    method: str
    lr: float | None
    length: dict[str, Any]

    @property
    def slug(self) -> str:
        return f"matrix-{self.name.replace(' ', '').replace('+', '-')}-{WORLD}"


def jobs() -> Iterator[Job]:
    """Every method of the league with its tuned setting."""
    rows = [r for r in read_json(RESULTS / "league.json")["rows"] if r["seed"] == WORLD]
    for row in sorted(rows, key=lambda r: -standing([r])):
        yield Job(row["base"], row["recipe"], row["lr"], LONGER.get(row["base"], {"epochs": EPOCHS}))


def twins() -> tuple[Any, Path, Path, Path]:
    """Task, original, retrained, and a second retrained model for the noise floor."""
    task = expunge.load_task("authors", seed=WORLD)
    return (task, trained_world(task, "full", seed=WORLD), trained_world(task, "retain", seed=WORLD + 1),
            trained_world(task, "retain", seed=WORLD + 11))


def make(job: Job, work: Path) -> Path | None:
    """The unlearned model; a finished one is left alone, one that fails is a result too."""
    out = work / "runs" / job.slug
    if (out / "record.json").exists() and read_json(out / "record.json")["status"] in ("finished", "stopped"):
        return out
    task, original, _, _ = twins()
    try:
        expunge.forget(original, task=task, method=job.method, lr=job.lr, batch_size=BATCH, seed=WORLD, out=out,
                       overwrite=out.exists(), reporter=Reporter(quiet=True), **job.length)
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
    task, original, retrained, second = twins()
    found = expunge.audit(out, task=task, original=original, retrained=[retrained, second], suite=suite, out=place,
                          seed=WORLD, resume=place.exists(), reporter=Reporter(quiet=True))
    log((job.slug, found.verdict.outcome if found.verdict else "", round(found.timing["observe_s"])))


def judged(place: Path) -> Audit:
    """An audit scored and judged again from its rows, so that all of them stand under the rules of this commit."""
    return rescore(place, suite_from_terms(Audit.read(place / "audit.json").suite), resamples=RESAMPLES)


def collect(work: Path) -> None:
    """results/attacks.json, docs/attacks.svg and docs/attacks.html, of every method that was audited."""
    rows = []
    for job in jobs():
        place = work / "audits" / job.slug
        if (place / "audit.json").exists():
            rows.append((job, judged(place)))
    found = matrix([(job.name, audit) for job, audit in rows])
    store("attacks", {"world": WORLD, "suite": list(rows[0][1].suite), "matrix": found, "methods": [
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
    parser.add_argument("--suite", default="standard")
    parser.add_argument("--part", default="1/1", help="which of how many processes this is")
    given = parser.parse_args()
    if given.phase == "draw":
        draw()
        raise SystemExit
    if given.phase == "collect":
        collect(given.work)
        raise SystemExit
    index, parts = map(int, given.part.split("/"))
    for job in list(jobs())[index - 1:: parts]:
        if given.phase == "forget":
            make(job, given.work)
        else:
            attack(job, given.work, given.suite)
