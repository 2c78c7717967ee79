"""Commands that run many runs: `sweep`, `shadows` and `study`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from expunge.cli.app import DryRun, Json, Overwrite, Resume, app, friendly, print_json, reporter_for, with_plugins
from expunge.cli.options import load, with_options
from expunge.errors import ExpungeError
from expunge.records.settings import RunSettings, TaskOptions
from expunge.records.study import StudySettings


@app.command()
@friendly
@with_plugins
@with_options("rows", TaskOptions)
@with_options("settings", RunSettings, "epochs", "steps", "batch_size", "seed", "limit", "on_overlap", "template")
def sweep(
    rows: TaskOptions, settings: RunSettings,
    model: Annotated[str | None, typer.Argument(help="Run folder, model folder or hub name; the built-in world's "
                                                     "when left out.")] = None,
    method: Annotated[str, typer.Option("--method", help="Recipe; options left out of it are searched.")] = "npo + "
                                                                                                           "retain_nll",
    out: Annotated[Path, typer.Option("--out", help="Folder for the trials.")] = Path("expunge-sweep"),
    retrained: Annotated[list[str] | None, typer.Option("--retrained", help="Trained without the forget set; needed "
                                                                            "with a MODEL.")] = None,
    trials: Annotated[int, typer.Option("--trials", min=1, help="How many settings to try.")] = 10,
    suite: Annotated[str | None, typer.Option("--suite", help="Scores of a trial; forget_quality and model_utility "
                                                              "among them.")] = None,
    resume: Resume = False, overwrite: Overwrite = False, dry_run: DryRun = False, as_json: Json = False,
) -> None:
    """Tune a recipe: search the options it leaves open, keep every trial, draw the Pareto front."""
    from expunge.cli.plans import show_sweep_plan
    from expunge.tuning import SUITE
    from expunge.tuning import sweep as run

    reporter = reporter_for(as_json)
    done = run(method, out=out, task=load(rows, settings, "authors"), model=model, retrained=retrained or (),
               trials=trials, suite=suite or SUITE, settings=settings, resume=resume, overwrite=overwrite,
               dry_run=dry_run, reporter=reporter)
    if as_json:
        return print_json(done.to_json())
    if dry_run:
        return show_sweep_plan(done, trials, reporter)
    front = [[str(t.number), 10 ** (t.quality or 0.0), t.utility, t.seconds, f"{t.params.get('lr') or ''}", t.recipe]
             for t in done.front()]
    reporter.table("Beaten by no other trial", ["trial", "forget quality", "utility", "train s", "lr", "recipe"], front)
    best = done.best()
    if best is None:
        reporter.error(ExpungeError(f"All {len(done.trials)} trials failed.", done.trials[0].failed,
                                    f"{out / 'trials.jsonl'} holds what each of them tried."))
        raise typer.Exit(1)
    rate = f"  (--lr {best.params['lr']:g})" if best.params.get("lr") else ""
    reporter.out.print(f"\nBest by merit: {best.recipe}{rate}\nThe page: {out / 'sweep.html'}", soft_wrap=True,
                       markup=False)


@app.command()
@friendly
@with_plugins
@with_options("rows", TaskOptions)
@with_options("settings", RunSettings, "epochs", "lr", "batch_size", "seed", "limit", "on_overlap", "template")
def shadows(
    rows: TaskOptions, settings: RunSettings,
    model: Annotated[str, typer.Argument(help="Size or config to start fresh, or a model to start from that never met "
                                              "the rows.")] = "tiny",
    method: Annotated[list[str] | None, typer.Option("--method", help="Recipe; may be given several times.")] = None,
    trainer: Annotated[str, typer.Option("--trainer", help='How originals and retrained models are trained, such as '
                                                           '"retain_nll + lora(rank=8)".')] = "retain_nll",
    out: Annotated[Path, typer.Option("--out", help="Folder for the margins of all models.")] = Path("expunge-shadows"),
    count: Annotated[int, typer.Option("--count", min=1, help="Shadow models, a multiple of 4.")] = 32,
    train_epochs: Annotated[float, typer.Option("--train-epochs", help="Passes of each training over its rows.")] = 30,
    train_lr: Annotated[float | None, typer.Option("--train-lr", help="Peak learning rate of each training.")] = None,
    resume: Resume = False, overwrite: Overwrite = False, dry_run: DryRun = False, as_json: Json = False,
) -> None:
    """Attack every row with many small models that had it and unlearned it, or never had it."""
    from expunge.cli.plans import show_shadows_plan
    from expunge.cli.showing import show_shadows
    from expunge.shadows import WORLD, make_shadows

    done = make_shadows(method or "npo + retain_nll", out=out, count=count, task=load(rows, settings, WORLD),
                        model=model, trainer=trainer, train_epochs=train_epochs, train_lr=train_lr, settings=settings,
                        resume=resume, overwrite=overwrite, dry_run=dry_run, reporter=reporter_for(as_json))
    if as_json:
        return print_json(done.to_json())
    reporter = reporter_for(as_json)
    show_shadows_plan(done, reporter) if dry_run else show_shadows(done, reporter)


@app.command()
@friendly
@with_plugins
@with_options("rows", TaskOptions)
@with_options("settings", StudySettings, "count", "steps", "epochs", "lr", "method", "batch_size", "seed", "limit",
              "on_overlap", "template")
def study(
    rows: TaskOptions, settings: StudySettings,
    name: Annotated[str, typer.Argument(help="outlandish, path_dependence, novice, traces or worst_case.")],
    model: Annotated[str | None, typer.Argument(help="For outlandish: a model that knows the rows of --task; the "
                                                     "built-in world's when left out.")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Folder of the study; expunge-NAME by default.")] = None,
    resume: Resume = False, overwrite: Overwrite = False, dry_run: DryRun = False, as_json: Json = False,
) -> None:
    """Study how models learn and forget: one row, the order, learning again, traces of unlearning, the hardest rows."""
    from expunge.cli.plans import show_study_plan
    from expunge.cli.showing import show_study
    from expunge.studies.run import design_of
    from expunge.studies.run import study as run

    reporter, place = reporter_for(as_json), out or Path(f"expunge-{name}")
    design_of(name)
    asked = rows.task is not None or rows.forget is not None
    done = run(name, out=place, model=model, task=load(rows, settings) if asked else None, settings=settings,
               resume=resume, overwrite=overwrite, dry_run=dry_run, reporter=reporter)
    if as_json:
        return print_json(done.to_json())
    show_study_plan(done, reporter) if dry_run else show_study(done, place, reporter)
