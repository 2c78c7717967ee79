"""The comparator's page: its data, gathered from run folders, in one HTML file that needs nothing else."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from expunge.comparator import back, inside, rows
from expunge.comparator.membership import ABOUT, STEPS
from expunge.comparator.models import ComparedModel, models_of
from expunge.comparator.redact import redacted
from expunge.comparator.screen import dimensions
from expunge.errors import UsageError, did_you_mean
from expunge.records.base import write_text
from expunge.report import text
from expunge.report.comparison import cautions, lacking
from expunge.report.differences import shown
from expunge.report.gather import RunView, gather, options
from expunge.report.paths import shortened
from expunge.report.redact import Redaction, check_known

SCHEMA = "expunge.comparator/1"
PROJECTIONS = ("pca", "umap")
SCRIPTS = ("base", "plot", "build", "screen", "contrast", "inside", "membership", "back", "start")
"""In this order; each is one view, or what views share."""


def comparator(folders: Sequence[str | Path], *, out: str | Path, title: str | None = None,
               projection: str = "pca", redact: bool = False) -> Path:
    """Write one self-contained page over runs, on which two of them are chosen and compared row by row.

    Args:
        folders: folders of runs, audits or grids; a grid stands for its finished cells.
        out: the page.
        title: its heading.
        projection: how hidden states are drawn: pca, or umap (extra `umap`).
        redact: write row numbers and lengths in place of prompts, answers and names.

    Raises:
        MissingError: a folder is no run, audit or grid.
        UsageError: an unknown projection; or nothing says what is to be redacted.
    """
    write_text(Path(out), page([Path(f) for f in folders], title=title, projection=projection, redact=redact))
    return Path(out)


def page(folders: Sequence[Path], *, title: str | None = None, projection: str = "pca", live: str = "",
         redact: bool = False) -> str:
    """The page as text. `live` is what a server calls this state of the folders; empty for a page of its own."""
    found = payload(folders, projection=projection, redact=redact)
    return render(found, title=title, live=live)


def render(found: dict[str, Any], *, title: str | None = None, live: str = "") -> str:
    """The HTML around the data of a page."""
    own = files("expunge.comparator") / "templates"
    places = [str(own), str(files("expunge.report") / "templates")]
    environment = Environment(loader=FileSystemLoader(places), autoescape=True, undefined=StrictUndefined,
                              trim_blocks=True, lstrip_blocks=True)
    runs = sum(m["kind"] == "run" for m in found["models"])
    # Nothing in the data may end the element that holds it.
    data = json.dumps(found, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    made = environment.get_template("comparator.html.j2").render(
        title=title or f"{runs} run{'s' * (runs != 1)} compared", cautions=found["cautions"],
        redacted=found["redacted"], data=data, live=live,
        scripts="\n".join((own / f"{name}.js").read_text(encoding="utf-8") for name in SCRIPTS))
    return made.encode("utf-8", "replace").decode("utf-8")


def payload(folders: Sequence[Path], *, projection: str = "pca", redact: bool = False) -> dict[str, Any]:
    """Everything that the page shows, as JSON."""
    check_projection(projection)
    views = tuple(map(shortened, gather(folders, observations=redact)))
    if redact:
        check_known(views)
        hide = Redaction(views)
        return redacted(_payload(folders, tuple(map(hide.view, views)), projection), hide)
    return _payload(folders, views, projection)


def _payload(folders: Sequence[Path], views: Sequence[RunView], projection: str) -> dict[str, Any]:
    models = models_of(views)
    asked = rows.asked(models)
    table = rows.row_table(models, asked)
    pool = rows.TextPool()
    layers, states = inside.hidden(models)
    return {
        "schema": SCHEMA, "redacted": False,
        "cautions": [*lacking(folders), *cautions(views), *_lacks(views, table)],
        "models": [_model(m) for m in models],
        "dimensions": dimensions(models, asked),
        "rows": {"split": [k[0] for k in table.keys], "id": [k[1] for k in table.keys],
                 **{name: [about[name] for about in table.about] for name in ("entity", "prompt", "reference")}},
        "measures": [{"name": n, "about": text.METRICS.get(n, ABOUT.get(n, ""))} for n in rows.measures(asked)],
        "values": rows.values(table, asked),
        "answers": rows.answers(table, asked, pool),
        "member": {"about": ABOUT, "steps": STEPS, "values": {
            name: {key: [rows.short(v) for v in table.column(mine.member[name])]
                   for key, mine in asked.items() if name in mine.member}
            for name in ABOUT if any(name in mine.member for mine in asked.values())}},
        "inside": {"layers": layers, "cka": inside.similarity(states), "how": projection,
                   "map": inside.projected(states, layers, table, projection), "weights": inside.weights(models)},
        "back": {"curves": back.curves(models), "original": back.originals(models),
                 "values": rows.attacked(table, asked), "answers": back.answers(models, table, pool)},
        "texts": pool.texts,
        "common": sorted(text.COMMON_WORDS),
    }


def check_projection(name: str) -> None:
    """Raises UsageError for an unknown one, MissingExtra where its package is not installed."""
    if name not in PROJECTIONS:
        raise UsageError(f"There is no projection {name!r}.", did_you_mean(name, PROJECTIONS))
    if name == "umap":
        inside.need_umap()


def _lacks(views: Sequence[RunView], table: rows.RowTable) -> list[str]:
    """What makes rows hard to compare."""
    found = []
    bare = [v.name for v in views if v.audit and v.folder and not rows.has_examples(v.folder)]
    if bare:
        found.append(f"No scores of single rows: {', '.join(bare)}. `expunge audit --rescore DIR` makes them from what "
                     "is stored.")
    if table.changed:
        found.append(f"{table.changed} rows have one id and different prompts in different audits; the first is shown.")
    unfinished = [f"{v.name} ({v.record.unfinished})" for v in views if v.record and v.record.unfinished]
    if unfinished:
        found.append(f"Not finished: {', '.join(unfinished)}.")
    return found


def _model(model: ComparedModel) -> dict[str, Any]:
    view = model.view
    made: dict[str, Any] = {"key": model.key, "kind": model.kind, "label": model.label}
    if model.kind != "run":
        return made | {"model": model.path, "settings": {}}
    verdict = view.audit.verdict if view.audit else None
    said = verdict.outcome if verdict else "no verdict" if view.audit else "not audited"
    sign = text.HEADLINES[verdict.outcome][0] if verdict else "–"
    return made | {
        "name": view.name, "recipe": view.recipe, "verdict": said, "sign": sign,
        "settings": {"verdict": said, "recipe": view.recipe or "–", "model": view.model or "–",
                     "task": view.task or "–", "seed": shown(view.seed),
                     **{k: shown(v) for k, v in options(view.record).items()},
                     "folder": view.name},
    }
