"""Commands on a finished run: `merge`, `eval` and `purge`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from expunge.cli.app import DryRun, Json, Overwrite, app, friendly, print_json, reporter_for
from expunge.cli.showing import shown_path
from expunge.models.places import check_place


@app.command()
@friendly
def merge(
    run: Annotated[Path, typer.Argument(help="Run folder whose weights are an adapter.")],
    out: Annotated[Path | None, typer.Option("--out", help="Folder to make; RUN/merged by default.")] = None,
    overwrite: Overwrite = False, as_json: Json = False,
) -> None:
    """Fold the adapter of a run into its base, since the base alone still knows the rows."""
    from expunge.merging import merge as fold

    reporter = reporter_for(as_json)
    made = fold(run, out=out, overwrite=overwrite, reporter=reporter)
    if as_json:
        return print_json({"path": str(made), "model": str(made / "model")})
    reporter.note(f"Next: expunge audit {shown_path(made)}")


@app.command(name="eval")
@friendly
def evaluate(
    model: Annotated[str, typer.Argument(help="Run folder, model folder or hub name.")],
    tasks: Annotated[str, typer.Option("--tasks", help="Tasks of lm-eval, by commas, such as arc_easy,hellaswag.")],
    original: Annotated[str | None, typer.Option("--original", help="Another model beside it; a run's own "
                                                                    "by default.")] = None,
    include: Annotated[Path | None, typer.Option("--include", help="Folder with task files (YAML) of yours.")] = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Rows of each task.")] = None,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Rows at once.")] = 8,
    seed: Annotated[int, typer.Option("--seed", help="One seed for everything random.")] = 0,
    out: Annotated[Path | None, typer.Option("--out", help="File for the results; RUN/eval.json of a run.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Drop earlier results in that file.")] = False,
    as_json: Json = False,
) -> None:
    """Ask a run, and its original, standard benchmarks through lm-eval (extra: eval)."""
    for place in (model, original):
        if place is not None:
            check_place(place)
    from expunge.evaluating import evaluate as ask

    reporter = reporter_for(as_json)
    made = ask(model, [name.strip() for name in tasks.split(",") if name.strip()], original=original, include=include,
               limit=limit, batch_size=batch_size, seed=seed, out=out, overwrite=overwrite, reporter=reporter)
    if as_json:
        return print_json(made.to_json())
    reporter.table("", ["task", "metric", "unlearned", "std. error", "original"],
                   [[r.task, r.metric, r.value, r.error, r.original] for r in made.results])


@app.command()
@friendly
def purge(
    run: Annotated[Path, typer.Argument(help="Folder of a run or of an audit.")],
    guards: Annotated[bool, typer.Option("--guards", help="Empty the stores of guards too; their models do not load "
                                                          "then.")] = False,
    dry_run: DryRun = False, as_json: Json = False,
) -> None:
    """Remove the rows of a run, all answers to them and their cached copies, and write down that it was done."""
    from expunge.purging import bases_with_rows
    from expunge.purging import purge as remove

    made = remove(run, dry_run=dry_run, guards=guards)
    bases = bases_with_rows(run)
    if as_json:
        return print_json({**made.to_json(), "bases_with_rows": [str(base) for base in bases]})
    reporter = reporter_for(as_json)
    listed = (f"{', '.join(made.removed) or 'no file'} and {made.cached} cached files "
              f"({made.removed_bytes / 1e6:.1f} MB)")
    if made.found:
        reporter.note(f"{'Would remove' if dry_run else 'Removed'} {listed}.")
    elif made.removed or made.cached:
        reporter.note(f"Nothing was left to remove. Removed earlier: {listed}.")
    else:
        reporter.note("There was nothing to remove.")
    reporter.note("Kept:\n" + "\n".join(f"  {line}" for line in made.kept))
    for base in bases:
        reporter.note(f"The model that the run began from still holds rows, in {base}. "
                      f"Remove them too: expunge purge {shown_path(base)}")
    reporter.note("Not looked at: audits in other folders, pages elsewhere, and the files that the rows came from.")
