"""`expunge`: what a person types. Each command only reads options, calls the API and prints.

Exit codes: 0 ok, 1 a verdict failed, 2 usage, 3 preflight refused, 4 interrupted and resumable.
"""

from __future__ import annotations

import functools
import json
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from expunge import processes
from expunge.cli.fetch import fetch
from expunge.cli.options import load, with_options
from expunge.cli.threads import use_available_cores
from expunge.errors import ExpungeError, UsageError
from expunge.models import fast
from expunge.records.settings import AuditSettings, RunSettings, TaskOptions, TrainSettings

if TYPE_CHECKING:
    from expunge.console import Reporter

app = typer.Typer(
    name="expunge", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False,
    help="Make a model forget, and prove it.", rich_markup_mode=None,
    epilog="Exit codes: 0 ok, 1 a verdict failed, 2 usage, 3 preflight refused, 4 interrupted and resumable.",
)

Resume = Annotated[bool, typer.Option("--resume", help="Go on where an interrupted run stopped.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an output folder of expunge's.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Check and show the plan; change nothing.")]
TASK_OF_A_TRAINING = ("task", "forget", "retain", "map", "data_dir", "allow_overlap")
"""Training asks for no holdout rows."""
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")]
Verbose = Annotated[bool, typer.Option("--verbose", help="Print every score, attack and finding as well.")]


def friendly(command: Callable[..., None]) -> Callable[..., None]:
    """Turn our errors into one message and their exit code; a traceback is only for our own mistakes."""

    @functools.wraps(command)
    def run(*args: Any, **options: Any) -> None:
        from expunge.console import Reporter

        try:
            with processes.main_output_only():
                command(*args, **options)
        except ExpungeError as problem:
            if processes.should_report(problem):
                Reporter().error(problem)
            raise typer.Exit(problem.exit_code) from None
        except KeyboardInterrupt:
            if processes.is_main():
                Reporter().error(ExpungeError("Interrupted.", "What was finished is on disk.", "Go on with --resume."))
            raise typer.Exit(4) from None
        except BrokenPipeError:  # `| head` has read enough
            sys.stderr.close()
            raise typer.Exit(0) from None
        except OSError as error:
            failure = ExpungeError(f"{error.strerror or error}" + f": {error.filename}" * bool(error.filename),
                                   fix="Check the path, the right to write there, and the free space.")
            if processes.should_report(failure):
                Reporter().error(failure)
            raise typer.Exit(2) from None

    return run


def _reporter(as_json: bool) -> Reporter:
    from expunge.console import Reporter

    return Reporter(quiet=as_json)


def _print_json(data: Any) -> None:
    print(json.dumps(data, indent=1, ensure_ascii=False))


@app.command()
@friendly
def demo(
    out: Annotated[Path, typer.Option("--out", help="Folder for the run.")] = Path("expunge-demo"),
    method: Annotated[str | None, typer.Option("--method", help="Another recipe than the default.")] = None,
    seed: Annotated[int, typer.Option("--seed", help="One seed for everything random.")] = 0,
    verbose: Verbose = False, as_json: Json = False,
) -> None:
    """Train, forget, audit and report on the built-in world; needs nothing."""
    from expunge import api
    from expunge.cli.showing import show_audit, shown_path

    reporter = _reporter(as_json)
    options = {"method": method} if method else {}
    record, found, page = api.demo(out, seed=seed, reporter=reporter, **options)
    if as_json:
        return _print_json({"record": record.to_json(), "audit": found.to_json(), "report": str(page)})
    more = f"expunge audit {shown_path(out)} --retrained {shown_path(found.retrained[0].path)} --out audit"
    show_audit(found, reporter, page=str(page), follow_up=more, verbose=verbose)


@app.command()
@friendly
@with_options("rows", TaskOptions, *TASK_OF_A_TRAINING)
@with_options("settings", TrainSettings)
def train(
    model: Annotated[str, typer.Argument(help="Model folder or hub name; or a config file or size to start fresh.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for the run.")],
    rows: TaskOptions, settings: TrainSettings,
    method: Annotated[str | None, typer.Option("--method", help="Exact method that lets rows be deleted later, such "
                                                                'as "sisa(shards=3)".')] = None,
    resume: Resume = False, overwrite: Overwrite = False, dry_run: DryRun = False, as_json: Json = False,
) -> None:
    """Train an original (--split full) or its retrained twin (--split retain)."""
    from expunge import api

    reporter = _reporter(as_json)
    record = api.train(model, task=load(rows, settings), out=out, method=method, settings=settings, resume=resume,
                       overwrite=overwrite, dry_run=dry_run, reporter=reporter)
    if as_json or dry_run:
        return _print_json(record.to_json())
    reporter.note(f"{record.status}: {record.reason}. Weights in {out / 'model'}.")


@app.command()
@friendly
@with_options("rows", TaskOptions)
@with_options("settings", RunSettings)
def forget(
    model: Annotated[str, typer.Argument(help="Run folder, model folder or hub name.")],
    method: Annotated[str, typer.Option("--method", help='Recipe, such as "npo + retain_kl + lora(rank=8)".')],
    out: Annotated[Path, typer.Option("--out", help="Folder for the run.")],
    rows: TaskOptions, settings: RunSettings,
    resume: Resume = False, overwrite: Overwrite = False, dry_run: DryRun = False, as_json: Json = False,
) -> None:
    """Make a model forget, by a recipe."""
    from expunge import api
    from expunge.records.run import RunRecord

    reporter = _reporter(as_json)
    done = api.forget(model, method=method, out=out, task=load(rows, settings), settings=settings, resume=resume,
                      overwrite=overwrite, dry_run=dry_run, reporter=reporter)
    if as_json or dry_run:
        return _print_json(done.to_json())
    if isinstance(done, RunRecord):
        kept = done.best.get("kept", {})
        words = ", ".join(f"{k} {v:.3g}" for k, v in kept.items() if isinstance(v, int | float))
        said = f"{done.status}: {done.reason}." + (f" Kept {words}." if words else "")
        reporter.note(f"{said} Weights in {out / 'model'}.")
        if not kept:  # an edit, a guard or an exact method says in its own words what it did
            plain = [f"{k} {v:.4g}" for k, v in done.best.items() if isinstance(v, int | float)]
            reporter.note("  " + ", ".join(plain[:8]) + ("; more in record.json" if plain else ""))
        task = shlex.quote(rows.task) if rows.task else "..."
        reporter.note(f"Next: expunge audit {out} --task {task} --retrained MODEL")


@app.command()
@friendly
@with_options("rows", TaskOptions)
@with_options("settings", AuditSettings)
def audit(
    rows: TaskOptions, settings: AuditSettings,
    subject: Annotated[str | None, typer.Argument(help="Run folder, model folder or hub name.")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Folder for the audit; a run's own by default.")] = None,
    original: Annotated[str | None, typer.Option("--original", help="The model before unlearning.")] = None,
    retrained: Annotated[list[str] | None, typer.Option("--retrained", help="Trained without the forget set; "
                                                                            "may be given several times.")] = None,
    require: Annotated[list[str] | None, typer.Option("--require", help="Exit 1 unless it holds, such as "
                                                                        '"forget_quality>=0.05".')] = None,
    rescore: Annotated[Path | None, typer.Option("--rescore", help="Score the stored observations of this audit "
                                                                   "again; no model is loaded.")] = None,
    resume: Resume = False, overwrite: Overwrite = False, dry_run: DryRun = False, verbose: Verbose = False,
    as_json: Json = False,
) -> None:
    """Ask a model what it still knows, beside the original and retrained models."""
    from expunge import api
    from expunge.cli.showing import report_command, show_audit, show_rescored
    from expunge.records.score import Audit

    reporter = _reporter(as_json)
    if rescore is not None:
        scores = api.score_again(rescore, suite=settings.suite)
        _print_json([s.to_json() for s in scores]) if as_json else show_rescored(rescore, scores, reporter, verbose)
        return _demand(api.require(scores, require or ()), reporter)
    if subject is None:
        raise UsageError("No model was given to audit.", fix="Give a run folder, a model folder or a hub name.")
    api.check_conditions(require or (), settings.suite or "standard")  # a typo should not cost an audit
    made = api.audit(subject, out=out, task=load(rows, settings, api.task_of(subject)), original=original,
                     retrained=retrained or (), settings=settings, resume=resume, overwrite=overwrite,
                     dry_run=dry_run, reporter=reporter)
    if not isinstance(made, Audit):
        return _print_json(made)
    if as_json:
        _print_json(made.to_json())
    else:
        show_audit(made, reporter, follow_up=report_command(out or subject), verbose=verbose)
    _demand(api.require(made.scores, require or ()), reporter)


@app.command()
@friendly
@with_options("rows", TaskOptions)
@with_options("settings", RunSettings, "epochs", "steps", "batch_size", "seed", "limit", "template")
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
    from expunge.tuning import SUITE
    from expunge.tuning import sweep as run

    reporter = _reporter(as_json)
    done = run(method, out=out, task=load(rows, settings, "authors"), model=model, retrained=retrained or (),
               trials=trials, suite=suite or SUITE, settings=settings, resume=resume, overwrite=overwrite,
               dry_run=dry_run, reporter=reporter)
    if as_json or dry_run:
        return _print_json(done.to_json())
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
@with_options("rows", TaskOptions)
@with_options("settings", RunSettings, "epochs", "lr", "batch_size", "seed", "limit", "template")
def shadows(
    rows: TaskOptions, settings: RunSettings,
    model: Annotated[str, typer.Argument(help="Size or config to start fresh, or a model to start from.")] = "tiny",
    method: Annotated[list[str] | None, typer.Option("--method", help="Recipe; may be given several times.")] = None,
    out: Annotated[Path, typer.Option("--out", help="Folder for the margins of all models.")] = Path("expunge-shadows"),
    count: Annotated[int, typer.Option("--count", min=1, help="Shadow models, a multiple of 4.")] = 32,
    train_epochs: Annotated[float, typer.Option("--train-epochs", help="Passes of each training over its rows.")] = 30,
    train_lr: Annotated[float | None, typer.Option("--train-lr", help="Peak learning rate of each training.")] = None,
    resume: Resume = False, overwrite: Overwrite = False, dry_run: DryRun = False, as_json: Json = False,
) -> None:
    """Attack every row with many small models that had it and unlearned it, or never had it."""
    from expunge.cli.showing import show_shadows
    from expunge.shadows import WORLD, make_shadows

    done = make_shadows(method or "npo + retain_nll", out=out, count=count, task=load(rows, settings, WORLD),
                        model=model, train_epochs=train_epochs, train_lr=train_lr, settings=settings, resume=resume,
                        overwrite=overwrite, dry_run=dry_run, reporter=_reporter(as_json))
    _print_json(done.to_json()) if as_json or dry_run else show_shadows(done, _reporter(as_json))


@app.command()
@friendly
def report(
    folders: Annotated[list[Path], typer.Argument(help="Run or audit folders.")],
    out: Annotated[Path, typer.Option("--out", help="The page.")] = Path("report.html"),
    title: Annotated[str | None, typer.Option("--title", help="Heading of the page.")] = None,
    as_json: Json = False,
) -> None:
    """One self-contained page over one run, or several side by side. Needs no torch."""
    from expunge.report.page import render

    page = render(folders, out=out, title=title)
    if as_json:
        return _print_json({"report": str(page)})
    print(page)


@app.command()
@friendly
def ls(
    what: Annotated[str, typer.Argument(help="methods, objectives, scopes, metrics, tasks, ... or all.")] = "all",
    as_json: Json = False,
) -> None:
    """List what there is, one line each."""
    from expunge.cli.listing import listing

    groups = listing(what)
    if as_json:
        return _print_json(groups)
    for group, rows in groups.items():
        width = max((len(name) for name in rows), default=0)
        print(f"{group}\n" + "\n".join(f"  {name:<{width}}  {summary}" for name, summary in rows.items()) + "\n")


@app.command()
@friendly
def explain(name: Annotated[str, typer.Argument(help="A plug-in.")], as_json: Json = False) -> None:
    """Show a plug-in's card: paper, formula, defaults, needs, deviations."""
    from expunge.cli.listing import card_of, card_text

    print(json.dumps(card_of(name), indent=1, ensure_ascii=False) if as_json else card_text(name))


@app.command()
@friendly
def doctor(plain: Annotated[bool, typer.Option("--plain", help="Say which tricks for speed are on; EXPUNGE_PLAIN=1 "
                                               "in the environment turns all off.")] = False,
           as_json: Json = False) -> None:
    """Check the installation: versions, accelerator, extras, cache, data."""
    from expunge.cli.listing import diagnosis

    found = diagnosis(tricks=plain)
    if as_json:
        _print_json(found)
    else:
        for key, value in found.items():
            print(f"{key:<22} {value}")
    if found["problems"] != "none":
        raise typer.Exit(3)


app.command()(friendly(fetch))


def _demand(failed: Sequence[str], reporter: Reporter) -> None:
    """Exit code 1 with every requirement that does not hold."""
    for line in failed:
        reporter.warn("required: " + line)
    if failed:
        raise typer.Exit(1)


def main() -> None:
    """Entry point of the console script. A program of its own may change the process; a library may not."""
    use_available_cores()
    fast.use_process_wide_tricks()
    with processes.parting():
        app(prog_name="expunge")


if __name__ == "__main__":
    main()
