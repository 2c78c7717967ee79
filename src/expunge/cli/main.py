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
from expunge.cli.task_options import task_from
from expunge.errors import ExpungeError

if TYPE_CHECKING:
    from expunge.console import Reporter

app = typer.Typer(
    name="expunge", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False,
    help="Make a model forget, and prove it.", rich_markup_mode=None,
    epilog="Exit codes: 0 ok, 1 a verdict failed, 2 usage, 3 preflight refused, 4 interrupted and resumable.",
)

TaskName = Annotated[str | None, typer.Option("--task", help="authors, tofu:forget01|05|10; or give files.")]
ForgetFile = Annotated[Path | None, typer.Option("--forget", help="File of rows to forget.")]
RetainFile = Annotated[Path | None, typer.Option("--retain", help="File of rows to keep.")]
HoldoutFile = Annotated[Path | None, typer.Option("--holdout", help="File of rows no model was trained on.")]
MapText = Annotated[str | None, typer.Option("--map", help="Other field names: question=q,answer=a.")]
DataDir = Annotated[Path | None, typer.Option("--data-dir", help="Folder of local TOFU files (or EXPUNGE_DATA).")]
Limit = Annotated[int | None, typer.Option("--limit", help="Keep the first N rows of every split.")]
MaxLength = Annotated[int | None, typer.Option("--max-length", min=1, help="Cut rows at this many tokens.")]
AllowOverlap = Annotated[bool, typer.Option("--allow-overlap", help="Accept forget rows that stand in retain too.")]
Template = Annotated[str | None, typer.Option("--template", help="Plain prompt template with {prompt}, in place of "
                                                                 "the tokenizer's chat template.")]
Seed = Annotated[int, typer.Option("--seed", help="One seed for everything random.")]
Epochs = Annotated[float | None, typer.Option("--epochs", help="Walks over the rows.", min=0)]
Steps = Annotated[int | None, typer.Option("--steps", help="Optimizer steps, in place of epochs.", min=1)]
Rate = Annotated[float | None, typer.Option("--lr", help="Peak learning rate.")]
BatchSize = Annotated[int, typer.Option("--batch-size", help="Rows of each side per micro-batch, over "
                                                        "all processes together.", min=1)]
Recompute = Annotated[bool, typer.Option("--gradient-checkpointing", help="Compute activations twice rather than keep "
                                                                      "them: less memory, more time.")]
Accumulate = Annotated[int, typer.Option("--accumulate", help="Micro-batches per optimizer step.", min=1)]
EvalEvery = Annotated[int | None, typer.Option("--eval-every", help="Steps between monitor readings.", min=1)]
Resume = Annotated[bool, typer.Option("--resume", help="Go on where an interrupted run stopped.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an output folder of expunge's.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Check and show the plan; change nothing.")]
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
    seed: Seed = 0, verbose: Verbose = False, as_json: Json = False,
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
def train(
    model: Annotated[str, typer.Argument(help="Model folder or hub name; or a config file or size to start fresh.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for the run.")],
    task: TaskName = None,
    split: Annotated[str, typer.Option("--split", help="full, or retain for the retrained twin.")] = "full",
    method: Annotated[str | None, typer.Option("--method", help="Exact method that lets rows be deleted later, such "
                                                                'as "sisa(shards=3)".')] = None,
    forget: ForgetFile = None, retain: RetainFile = None, mapping: MapText = None, data_dir: DataDir = None,
    allow_overlap: AllowOverlap = False, template: Template = None, epochs: Epochs = None, steps: Steps = None,
    lr: Rate = None, gradient_checkpointing: Recompute = False,
    batch_size: BatchSize = 16, accumulate: Accumulate = 1, seed: Seed = 0, limit: Limit = None,
    max_length: MaxLength = None, eval_every: EvalEvery = None, resume: Resume = False,
    overwrite: Overwrite = False, dry_run: DryRun = False, as_json: Json = False,
) -> None:
    """Train an original (--split full) or its retrained twin (--split retain)."""
    from expunge import api

    reporter = _reporter(as_json)
    loaded = task_from(task, forget=forget, retain=retain, mapping=mapping, data_dir=data_dir, limit=limit,
                       allow_overlap=allow_overlap, template=template)
    record = api.train(
        model, task=loaded, out=out, split=split, method=method, epochs=epochs, steps=steps, lr=lr,  # type: ignore[arg-type]
        batch_size=batch_size, accumulate=accumulate, seed=seed, limit=limit, max_length=max_length,
        eval_every=eval_every, gradient_checkpointing=gradient_checkpointing, resume=resume, overwrite=overwrite,
        dry_run=dry_run, reporter=reporter)
    if as_json or dry_run:
        return _print_json(record.to_json())
    reporter.note(f"{record.status}: {record.reason}. Weights in {out / 'model'}.")


@app.command()
@friendly
def forget(
    model: Annotated[str, typer.Argument(help="Run folder, model folder or hub name.")],
    method: Annotated[str, typer.Option("--method", help='Recipe, such as "npo + retain_kl + lora(rank=8)".')],
    out: Annotated[Path, typer.Option("--out", help="Folder for the run.")],
    task: TaskName = None, forget_file: ForgetFile = None, retain: RetainFile = None, holdout: HoldoutFile = None,
    mapping: MapText = None, data_dir: DataDir = None, allow_overlap: AllowOverlap = False, template: Template = None,
    epochs: Epochs = 10, steps: Steps = None, lr: Rate = None, batch_size: BatchSize = 8,
    accumulate: Accumulate = 1, seed: Seed = 0, limit: Limit = None, max_length: MaxLength = None,
    eval_every: EvalEvery = None, gradient_checkpointing: Recompute = False,
    keep: Annotated[str, typer.Option("--keep", help="best (by the stated rule) or last.")] = "best",
    utility_floor: Annotated[float, typer.Option("--utility-floor", min=0, max=1,
                                                 help="Share of the starting utility to hold.")] = 0.9,
    forget_target: Annotated[float | None, typer.Option("--forget-target", min=0, max=1, help="Forget probability to "
                                                        "aim at; that of holdout rows when left out.")] = None,
    stop_at_target: Annotated[bool, typer.Option("--stop-at-target", help="Stop once forget rows are at "
                                                                          "the target.")] = False,
    stop_at_floor: Annotated[bool, typer.Option("--stop-at-floor", help="Stop below the utility floor.")] = False,
    checkpoint_every: Annotated[int, typer.Option("--checkpoint-every", min=1, help="Steps between checkpoints.")] = 50,
    resume: Resume = False, overwrite: Overwrite = False, dry_run: DryRun = False, as_json: Json = False,
) -> None:
    """Make a model forget, by a recipe."""
    from expunge import api
    from expunge.errors import UsageError

    if keep not in ("best", "last"):
        raise UsageError(f"--keep {keep!r} is not possible.", fix="Choose best or last.")
    reporter = _reporter(as_json)
    loaded = task_from(task, forget=forget_file, retain=retain, holdout=holdout, mapping=mapping, data_dir=data_dir,
                       limit=limit, allow_overlap=allow_overlap, template=template)
    found = api.forget(
        model, method=method, out=out, task=loaded, epochs=epochs if epochs is not None else 10, steps=steps, lr=lr,
        batch_size=batch_size, accumulate=accumulate, seed=seed, limit=limit, max_length=max_length,
        eval_every=eval_every, keep=keep, utility_floor=utility_floor,  # type: ignore[arg-type]
        forget_target=forget_target, stop_at_target=stop_at_target, stop_at_floor=stop_at_floor,
        checkpoint_every=checkpoint_every, gradient_checkpointing=gradient_checkpointing,
        resume=resume, overwrite=overwrite, dry_run=dry_run, reporter=reporter)
    if as_json or dry_run:
        return _print_json(found.to_json())
    from expunge.records.run import RunRecord

    if isinstance(found, RunRecord):
        kept = found.best.get("kept", {})
        words = ", ".join(f"{k} {v:.3g}" for k, v in kept.items() if isinstance(v, int | float))
        said = f"{found.status}: {found.reason}." + (f" Kept {words}." if words else "")
        reporter.note(f"{said} Weights in {out / 'model'}.")
        if not kept:  # an edit, a guard or an exact method says in its own words what it did
            plain = [f"{k} {v:.4g}" for k, v in found.best.items() if isinstance(v, int | float)]
            reporter.note("  " + ", ".join(plain[:8]) + ("; more in record.json" if plain else ""))
        reporter.note(f"Next: expunge audit {out} --task {shlex.quote(task) if task else '...'} --retrained MODEL")


@app.command()
@friendly
def audit(
    subject: Annotated[str | None, typer.Argument(help="Run folder, model folder or hub name.")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Folder for the audit; a run's own by default.")] = None,
    task: TaskName = None, forget: ForgetFile = None, retain: RetainFile = None, holdout: HoldoutFile = None,
    mapping: MapText = None, data_dir: DataDir = None, allow_overlap: AllowOverlap = False, template: Template = None,
    original: Annotated[str | None, typer.Option("--original", help="The model before unlearning.")] = None,
    retrained: Annotated[list[str] | None, typer.Option("--retrained", help="Trained without the forget set; "
                                                                            "may be given several times.")] = None,
    suite: Annotated[str | None, typer.Option("--suite", help="scores, quick, standard (the default), full, or metrics "
                                                              "and attacks, by commas.")] = None,
    require: Annotated[list[str] | None, typer.Option("--require", help="Exit 1 unless it holds, such as "
                                                                        '"forget_quality>=0.05".')] = None,
    rescore: Annotated[Path | None, typer.Option("--rescore", help="Score the stored observations of this audit "
                                                                   "again; no model is loaded.")] = None,
    seed: Seed = 0, limit: Limit = None, max_length: MaxLength = None,
    resume: Resume = False, overwrite: Overwrite = False, dry_run: DryRun = False, verbose: Verbose = False,
    as_json: Json = False,
) -> None:
    """Ask a model what it still knows, beside the original and retrained models."""
    from expunge import api
    from expunge.cli.showing import report_command, show_audit, show_rescored
    from expunge.errors import UsageError

    reporter = _reporter(as_json)
    if rescore is not None:
        scores = api.score_again(rescore, suite=suite)
        _print_json([s.to_json() for s in scores]) if as_json else show_rescored(rescore, scores, reporter, verbose)
        return _demand(api.require(scores, require or ()), reporter)
    if subject is None:
        raise UsageError("No model was given to audit.", fix="Give a run folder, a model folder or a hub name.")
    suite = suite or "standard"
    api.check_conditions(require or (), suite)  # a typo should not cost an audit
    loaded = task_from(task or (None if forget else api.task_of(subject)), forget=forget, retain=retain,
                       holdout=holdout, mapping=mapping, data_dir=data_dir, limit=limit, allow_overlap=allow_overlap,
                       template=template)
    found = api.audit(
        subject, out=out, task=loaded, original=original, retrained=retrained or (), suite=suite, seed=seed,
        limit=limit, max_length=max_length, resume=resume, overwrite=overwrite, dry_run=dry_run, reporter=reporter)
    from expunge.records.score import Audit

    if not isinstance(found, Audit):
        return _print_json(found)
    if as_json:
        _print_json(found.to_json())
    else:
        show_audit(found, reporter, follow_up=report_command(out or subject), verbose=verbose)
    _demand(api.require(found.scores, require or ()), reporter)


@app.command()
@friendly
def sweep(
    model: Annotated[str | None, typer.Argument(help="Run folder, model folder or hub name; the built-in world's "
                                                     "when left out.")] = None,
    method: Annotated[str, typer.Option("--method", help="Recipe; options left out of it are searched.")] = "npo + "
                                                                                                           "retain_nll",
    out: Annotated[Path, typer.Option("--out", help="Folder for the trials.")] = Path("expunge-sweep"),
    task: TaskName = "authors", forget: ForgetFile = None, retain: RetainFile = None, holdout: HoldoutFile = None,
    mapping: MapText = None, data_dir: DataDir = None, allow_overlap: AllowOverlap = False, template: Template = None,
    retrained: Annotated[list[str] | None, typer.Option("--retrained", help="Trained without the forget set; needed "
                                                                            "with a MODEL.")] = None,
    trials: Annotated[int, typer.Option("--trials", min=1, help="How many settings to try.")] = 10,
    suite: Annotated[str | None, typer.Option("--suite", help="Scores of a trial; forget_quality and model_utility "
                                                              "among them.")] = None,
    epochs: Epochs = 10, steps: Steps = None, batch_size: BatchSize = 8, seed: Seed = 0, limit: Limit = None,
    resume: Resume = False, overwrite: Overwrite = False, dry_run: DryRun = False, as_json: Json = False,
) -> None:
    """Tune a recipe: search the options it leaves open, keep every trial, draw the Pareto front."""
    from expunge.tuning import SUITE
    from expunge.tuning import sweep as run

    reporter = _reporter(as_json)
    loaded = task_from(task, forget=forget, retain=retain, holdout=holdout, mapping=mapping, data_dir=data_dir,
                       limit=limit, allow_overlap=allow_overlap, template=template)
    found = run(method, out=out, task=loaded, model=model, retrained=retrained or (), trials=trials,
                epochs=epochs if epochs is not None else 10, steps=steps, batch_size=batch_size, seed=seed,
                suite=suite or SUITE, resume=resume, overwrite=overwrite, dry_run=dry_run, reporter=reporter)
    if as_json or dry_run:
        return _print_json(found.to_json())
    rows = [[str(t.number), 10 ** (t.quality or 0.0), t.utility, t.seconds, f"{t.params.get('lr') or ''}", t.recipe]
            for t in found.front()]
    reporter.table("Beaten by no other trial", ["trial", "forget quality", "utility", "train s", "lr", "recipe"], rows)
    best = found.best()
    if best is None:
        reporter.error(ExpungeError(f"All {len(found.trials)} trials failed.", found.trials[0].failed,
                                    f"{out / 'trials.jsonl'} holds what each of them tried."))
        raise typer.Exit(1)
    reporter.out.print(f"\nBest by merit: {best.recipe if best else 'none: all trials failed'}"
                       + (f"  (--lr {best.params['lr']:g})" if best and best.params.get("lr") else "")
                       + f"\nThe page: {out / 'sweep.html'}", soft_wrap=True, markup=False)


@app.command()
@friendly
def shadows(
    model: Annotated[str, typer.Argument(help="Size or config to start fresh, or a model to start from.")] = "tiny",
    method: Annotated[list[str] | None, typer.Option("--method", help="Recipe; may be given several times.")] = None,
    out: Annotated[Path, typer.Option("--out", help="Folder for the margins of all models.")] = Path("expunge-shadows"),
    count: Annotated[int, typer.Option("--count", min=1, help="Shadow models, a multiple of 4.")] = 32,
    task: TaskName = None, forget: ForgetFile = None, retain: RetainFile = None, holdout: HoldoutFile = None,
    mapping: MapText = None, data_dir: DataDir = None, allow_overlap: AllowOverlap = False, template: Template = None,
    train_epochs: Annotated[float, typer.Option("--train-epochs", min=0, help="Walks of each training.")] = 30,
    train_lr: Annotated[float | None, typer.Option("--train-lr", help="Peak learning rate of each training.")] = None,
    epochs: Epochs = 10, lr: Rate = None, batch_size: BatchSize = 8, seed: Seed = 0, limit: Limit = None,
    resume: Resume = False, overwrite: Overwrite = False, dry_run: DryRun = False, as_json: Json = False,
) -> None:
    """Attack every row with many small models that had it and unlearned it, or never had it."""
    from expunge.cli.showing import show_shadows
    from expunge.shadows import WORLD, make_shadows

    loaded = task_from(task or (None if forget else WORLD), forget=forget, retain=retain, holdout=holdout,
                       mapping=mapping, data_dir=data_dir, limit=limit, allow_overlap=allow_overlap, template=template)
    found = make_shadows(method or "npo + retain_nll", out=out, count=count, task=loaded, model=model, seed=seed, lr=lr,
                         train_epochs=train_epochs, train_lr=train_lr, epochs=epochs or 10, batch_size=batch_size,
                         resume=resume, overwrite=overwrite, dry_run=dry_run, reporter=_reporter(as_json))
    _print_json(found.to_json()) if as_json or dry_run else show_shadows(found, _reporter(as_json))


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
def doctor(as_json: Json = False) -> None:
    """Check the installation: versions, accelerator, extras, cache, data."""
    from expunge.cli.listing import diagnosis

    found = diagnosis()
    if as_json:
        _print_json(found)
    else:
        for key, value in found.items():
            print(f"{key:<22} {value}")
    if found["problems"] != "none":
        raise typer.Exit(3)


def _demand(failed: Sequence[str], reporter: Reporter) -> None:
    """Exit code 1 with every requirement that does not hold."""
    for line in failed:
        reporter.warn("required: " + line)
    if failed:
        raise typer.Exit(1)


def main() -> None:
    """Entry point of the console script."""
    with processes.parting():
        app(prog_name="expunge")


if __name__ == "__main__":
    main()
