"""`expunge grid`: methods x learning rates x seeds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from expunge.cli.app import DryRun, Json, Overwrite, Resume, app, friendly, print_json, reporter_for, with_plugins
from expunge.cli.options import load, with_options
from expunge.console import Reporter
from expunge.models.places import check_place
from expunge.records.grid import Grid
from expunge.records.settings import RunSettings, TaskOptions

SHOWN = 24
"""Cells up to which the screen shows a line for each."""
COLUMNS = 4
"""Scores up to which the screen shows them; grid.csv holds all."""
OPTIONS = tuple(name for name in RunSettings.model_fields if name not in ("lr", "seed"))


@app.command()
@friendly
@with_plugins
@with_options("rows", TaskOptions)
@with_options("settings", RunSettings, *OPTIONS)
def grid(
    rows: TaskOptions, settings: RunSettings,
    out: Annotated[Path, typer.Option("--out", help="Folder of the grid; each cell is a run folder in it.")],
    methods: Annotated[list[str] | None, typer.Option("--methods", help="Recipe; may be given several times, or "
                                                      "several by commas. May be left out with --resume.")] = None,
    model: Annotated[str | None, typer.Argument(help="Run folder, model folder or hub name; the built-in world's "
                                                     "when left out.")] = None,
    lr: Annotated[list[str] | None, typer.Option("--lr", help="Peak learning rate; may be given several times. The "
                                                              "recipe's own when left out.")] = None,
    seeds: Annotated[str, typer.Option("--seeds", help="How many (3 means 0, 1, 2), or the seeds: 0,1,5.")] = "3",
    retrained: Annotated[list[str] | None, typer.Option("--retrained", help="Trained without the forget set; may be "
                                                                            "given several times.")] = None,
    suite: Annotated[str | None, typer.Option("--suite", help="What every audit asks; every score and no attack by "
                                                              "default.")] = None,
    jobs: Annotated[int, typer.Option("--jobs", min=1, help="Cells run at once; they share the cores.")] = 1,
    resume: Resume = False, overwrite: Overwrite = False, dry_run: DryRun = False, as_json: Json = False,
) -> None:
    """Run every method at every learning rate with every seed, and audit each run. Exit code 1 where a cell failed."""
    for place in (model, *(retrained or ())):
        if place is not None:
            check_place(place, hub=False)  # before torch is imported
    from expunge.grids import grid as run

    reporter = reporter_for(as_json)
    task = load(rows, settings, "authors") if methods or rows.model_fields_set else "authors"
    made = run(model, methods=methods or (), lr=lr or (), seeds=seeds, out=out, task=task, retrained=retrained or (),
               suite=suite, jobs=jobs, settings=settings, resume=resume, overwrite=overwrite, dry_run=dry_run,
               reporter=reporter)
    if as_json:
        print_json(made.to_json())
    else:
        show_grid(made, out, reporter)
    if any(cell.status == "failed" for cell in made.cells):
        raise typer.Exit(1)


def show_grid(made: Grid, out: Path, reporter: Reporter) -> None:
    """A line for each cell, why cells failed, and what to do next."""
    from expunge.cli.showing import shown_path
    from expunge.report.commands import resume_grid
    from expunge.report.comparison import HEADLINES
    from expunge.report.comparison_text import aligned
    from expunge.report.text import number

    done = [c for c in made.cells if c.status == "finished"]
    found = [name for c in done for name, value in c.scores.items() if value is not None]
    names = sorted(dict.fromkeys(found), key=lambda n: HEADLINES.index(n) if n in HEADLINES else len(HEADLINES))
    shown, more = names[:COLUMNS], names[COLUMNS:]
    if len(made.cells) <= SHOWN:
        reporter.close()
        heads = ["method", "lr", "seed", "verdict", *(n.replace(".", ".\n", 1) for n in shown), "train s"]
        for line in aligned(heads, [
            [c.method, "" if c.lr is None else f"{c.lr:g}", str(c.seed), c.verdict or c.status,
             *(number(c.scores.get(name)) for name in shown), f"{c.train_s:.1f}"] for c in made.cells]):
            reporter.out.print(line, soft_wrap=True, markup=False)
    for cell in made.cells:
        if cell.failed:
            reporter.warn(f"{cell.title}: {cell.failed}")
    table = f" Rows: {out / 'grid.csv'}" + f", with {len(more)} more scores" * bool(more)
    reporter.out.print(f"\n{made.counted()}." + table * bool(done), soft_wrap=True, markup=False)
    where = shown_path(out)
    if len(done) < len(made.cells) and (out / Grid.FILE).is_file():
        reporter.out.print(f"Go on with what failed or waits: {resume_grid(out)}", soft_wrap=True, markup=False)
    if done:
        reporter.out.print(f"Next: expunge compare {where}\n      expunge report {where} --out {where}/report.html",
                           soft_wrap=True, markup=False)
