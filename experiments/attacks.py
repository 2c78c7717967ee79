"""Every method under every attack of a suite.

Work lies under --work, one folder per model, so that an interrupted call goes on and several processes may share
it (`--part 1/2`). `forget` makes the models, `audit` attacks them, `collect` stores results/attacks.json, `draw` makes
its figure and page. `--set inside` takes what looks or edits inside the model, as the league of every method chose its
options, on the smaller world of that league, and stores results/attacks_inside.json. Models of which the outcome is
known: known.py.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import league_all
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
INSIDE = ("kuda", "srmu", "probe_geometry", "sae_guided", "roka", "cir", "attention_drift", "klue", "prune_first",
          "l1_sparse", "stamp", "concept_vectors", "ph3", "override_gap", "tall_masks", "consensus", "lunar", "pisces",
          "rome", "memit", "alphaedit", "npo")
"""Representation objectives, scopes and edits; npo to compare with."""


SAYS_ALL = 0.9
"""Leak share as asked."""


@dataclass(frozen=True)
class Job:
    """One unlearned model."""

    name: str
    method: str
    lr: float | None
    length: dict[str, Any]

    def slug(self, seed: int) -> str:
        return f"matrix-{self.name.replace(' ', '').replace('+', '-')}-{seed}"


def tuned() -> Iterator[Job]:
    """Every method of the league with its tuned setting."""
    rows = [r for r in read_json(RESULTS / "league.json")["rows"] if r["seed"] == WORLD]
    for row in sorted(rows, key=lambda r: -standing([r])):
        yield Job(row["base"], row["recipe"], row["lr"], LONGER.get(row["base"], {"epochs": EPOCHS}))


def inside() -> Iterator[Job]:
    """What looks or edits inside, with the setting that the league of every method chose.

    A model that says as good as everything when asked plainly is left out: there is nothing for an attack to bring out.
    """
    rows = {r["name"]: r for r in read_json(RESULTS / "league_all.json")["rows"] if "recipe" in r}
    for name in INSIDE:
        leaks = [w["scores"]["leak_share"]["value"] for w in rows.get(name, {}).get("worlds", ()) if "scores" in w]
        if leaks and median(leaks) < SAYS_ALL:
            yield Job(name, rows[name]["recipe"], rows[name]["lr"], league_all.LENGTH.get(name, {"epochs": EPOCHS}))


@dataclass(frozen=True)
class Table:
    """One matrix: the stem of its files, its models, and the world they are of."""

    name: str
    jobs: Callable[[], Iterator[Job]]
    world: str
    seed: int

    def twins(self) -> tuple[Any, Path, Path, Path]:
        """Task, original, retrained, and a second retrained model for the noise floor."""
        task, seed = expunge.load_task(self.world, seed=self.seed), self.seed
        return (task, trained_world(task, "full", seed=seed), trained_world(task, "retain", seed=seed + 1),
                trained_world(task, "retain", seed=seed + 11))


TABLES = {"league": Table("attacks", tuned, "authors", WORLD),
          "inside": Table("attacks_inside", inside, league_all.WORLD, league_all.WORLDS[0])}


def make(job: Job, table: Table, work: Path) -> Path | None:
    """The unlearned model; a finished one is left alone, one that fails is a result too."""
    slug = job.slug(table.seed)
    out = work / "runs" / slug
    if (out / "record.json").exists() and read_json(out / "record.json")["status"] in ("finished", "stopped"):
        return out
    task, original, _, _ = table.twins()
    try:
        expunge.forget(original, task=task, method=job.method, lr=job.lr, batch_size=BATCH, seed=table.seed, out=out,
                       overwrite=out.exists(), reporter=Reporter(quiet=True), **job.length)
    except ExpungeError as problem:
        log(("failed", slug, problem.what))
        return None
    log(("made", slug))
    return out


def attack(job: Job, table: Table, work: Path, suite: str) -> None:
    """Audit it under the suite, unless that is done."""
    out, place = make(job, table, work), work / "audits" / job.slug(table.seed)
    if out is None or (place / "audit.json").exists():
        return
    task, original, retrained, second = table.twins()
    found = expunge.audit(out, task=task, original=original, retrained=[retrained, second], suite=suite, out=place,
                          seed=table.seed, resume=place.exists(), reporter=Reporter(quiet=True))
    log((job.name, found.verdict.outcome if found.verdict else "", round(found.timing["observe_s"])))


def judged(place: Path) -> Audit:
    """An audit scored and judged again from its rows, so that all of them stand under the rules of this commit."""
    return rescore(place, suite_from_terms(Audit.read(place / "audit.json").suite), resamples=RESAMPLES)


def collect(table: Table, work: Path) -> None:
    """The stored result, its figure and its page, of every method that was audited."""
    rows = []
    for job in table.jobs():
        place = work / "audits" / job.slug(table.seed)
        if (place / "audit.json").exists():
            rows.append((job, judged(place)))
    found = matrix([(job.name, audit) for job, audit in rows])
    store(table.name, {"world": table.seed, "suite": list(rows[0][1].suite), "matrix": found, "methods": [
        {"name": job.name, "recipe": job.method, "lr": job.lr, "outcome": audit.verdict and audit.verdict.outcome,
         "alone": audit.verdict and audit.verdict.alone,
         "commit": audit.environment.get("commit")} for job, audit in rows]})
    draw(table)
    log((len(rows), "methods"))


PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Every method under every attack</title>
<style>
body { font: 14px/1.5 sans-serif; margin: 2rem; color: #1d2330 } td, th { padding: 2px 6px; text-align: right }
th { font-weight: normal; white-space: nowrap } table { border-collapse: collapse } .won { outline: 2px solid #1d2330 }
thead th { writing-mode: vertical-rl; transform: rotate(180deg); text-align: left } p { max-width: 60rem }
</style>
<h1>Every method under every attack</h1>
<p>{{ metric }} under each attack beyond the same attack on a retrained model, on the world {{ of }}, seed {{ world }};
the first row is the model left alone. Framed: the attack succeeded, bringing out more than plain asking does and more
than of the control. Point at a cell for its figures. Data: results/{{ name }}.json (commit {{ commit }}).</p>
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


def draw(table: Table) -> None:
    """docs/<name>.svg and docs/<name>.html from what is stored."""
    stored = read_json(RESULTS / f"{table.name}.json")
    found, picture = stored["matrix"], svg(stored["matrix"])
    cells = {(c["attack"], c["method"]): c for c in found["cells"]}
    lines = [(a["label"] or ALONE, [
        (f"{c['excess']:.2f}" if c and "excess" in c else "–", reason(c, found["metric"]), c and c.get("leaks"))
        for c in (cells.get((a["label"], m)) for m in found["methods"])]) for a in found["attacks"]]
    page = Environment(autoescape=True).from_string(PAGE).render(
        metric=found["metric"], world=stored["world"], of=table.world, name=table.name, picture=Markup(picture),
        commit=stored["environment"]["commit"],
        methods=found["methods"], lines=lines, recipes=stored["methods"])
    (DOCS / f"{table.name}.svg").write_text(picture)
    (DOCS / f"{table.name}.html").write_text(page)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("attacks"), help="folder for models and audits")
    parser.add_argument("--phase", choices=("forget", "audit", "collect", "draw"), default="audit")
    parser.add_argument("--set", dest="which", choices=list(TABLES), default="league")
    parser.add_argument("--suite", default="standard")
    parser.add_argument("--part", default="1/1", help="which of how many processes this is")
    given = parser.parse_args()
    chosen = TABLES[given.which]
    if given.phase == "draw":
        draw(chosen)
        raise SystemExit
    if given.phase == "collect":
        collect(chosen, given.work)
        raise SystemExit
    index, parts = map(int, given.part.split("/"))
    for job in list(chosen.jobs())[index - 1:: parts]:
        if given.phase == "forget":
            make(job, chosen, given.work)
        else:
            attack(job, chosen, given.work, given.suite)
