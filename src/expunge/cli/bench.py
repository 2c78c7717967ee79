"""`expunge bench`: methods on a benchmark with equal budgets, or run folders on it beside each other."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from expunge.cli.app import Json, Overwrite, Resume, app, friendly, print_json, reporter_for, with_plugins
from expunge.cli.options import with_options
from expunge.console import Reporter
from expunge.models.places import check_place
from expunge.records.bench import BenchTable
from expunge.records.settings import RunSettings

OPTIONS = tuple(name for name in RunSettings.model_fields if name not in ("lr", "seed"))
COLUMNS = ("forget_quality", "forget.probability", "retain.probability", "privleak")
"""Scores that the screen shows, as far as there are."""


@app.command()
@friendly
@with_plugins
@with_options("settings", RunSettings, *OPTIONS)
def bench(
    settings: RunSettings,
    task: Annotated[str, typer.Argument(help="The benchmark: a task such as tofu:forget01 (`expunge ls tasks`).")],
    out: Annotated[Path, typer.Option("--out", help="Folder of trials, runs and the table.")] = Path("expunge-bench"),
    methods: Annotated[list[str] | None, typer.Option("--methods", help="Recipe; may be given several times, or "
                                                                        "several by commas.")] = None,
    model: Annotated[str | None, typer.Option("--model", help="The original; or a pair, by name (tofu_tiny) or by its "
                                                              "folder with original and retrained in it. The built-in "
                                                              "world's when left out.")] = None,
    retrained: Annotated[list[str] | None, typer.Option("--retrained", help="Trained without the forget set; may be "
                                                                            "given several times. Those of a pair "
                                                                            "when left out.")] = None,
    seeds: Annotated[str, typer.Option("--seeds", help="How many (3 means 0, 1, 2), or the seeds: 0,1,5.")] = "3",
    trials: Annotated[int, typer.Option("--trials", min=1, help="Settings tried for each method; 1 takes recipes as "
                                                                "they stand.")] = 4,
    lr: Annotated[list[float] | None, typer.Option("--lr", help="Learning rate of a trial, in place of --trials; may "
                                                                "be given several times.")] = None,
    submissions: Annotated[list[Path] | None, typer.Option("--from", help="Run folder, grid or benchmark: nothing is "
                                                           "run, and the table is made of these. May be given several "
                                                           "times.")] = None,
    asks: Annotated[str | None, typer.Option("--suite", help="What the audits ask; the benchmark's own by "
                                                             "default.")] = None,
    data_dir: Annotated[Path | None, typer.Option("--data-dir", help="Folder of published files and of models by name "
                                                                     "(or EXPUNGE_DATA).")] = None,
    jobs: Annotated[int | None, typer.Option("--jobs", min=1, help="Runs at once; one for each core where the model "
                                                                   "is small, else 1.")] = None,
    resume: Resume = False, overwrite: Overwrite = False, as_json: Json = False,
) -> None:
    """Compare methods on a benchmark: the same trials and seeds for each, under attack, from scores computed again."""
    for place in retrained or ():
        check_place(place, hub=False)  # before torch is imported
    from expunge.benching import bench as run

    reporter = reporter_for(as_json)
    found = run(task, out=out, methods=methods or (), model=model, retrained=retrained or (), seeds=seeds,
                trials=trials, lr=lr or (), submissions=submissions or (), asked=asks, data_dir=data_dir, jobs=jobs,
                settings=settings, resume=resume, overwrite=overwrite, reporter=reporter)
    print_json(found.to_json()) if as_json else show_bench(found, out, reporter)


def show_bench(found: BenchTable, out: Path, reporter: Reporter) -> None:
    """A line for each row, what makes them hard to compare, and where the page is."""
    from expunge.cli.showing import shown_path
    from expunge.report.bench import kept_text, leak_text, verdict_text
    from expunge.report.comparison_text import aligned
    from expunge.report.text import number

    names = [name for name in COLUMNS if name in found.columns] or list(found.columns[:4])
    heads = ["", "verdicts", "leak share,\nstrongest", "utility\nkept", *(n.replace(".", ".\n", 1) for n in names)]
    lines = aligned(heads, [
        [f"{row.letter}: {row.title}" if row.letter else row.title, verdict_text(row), leak_text(row), kept_text(row),
         *(number(row.scores[name].value) if name in row.scores else "–" for name in names)]
        for row in found.rows if row.kind != "published"])
    for said in found.cautions:
        reporter.warn(said)
    for line in ("", *lines, ""):
        reporter.out.print(line, soft_wrap=True, markup=False)
    reporter.out.print(f"{found.rescored} runs, scored again from their observations. The table: "
                       f"{shown_path(out / 'bench.html')} and bench.md, with published rows and intervals.",
                       soft_wrap=True, markup=False)
