"""`expunge`: the commands. Each only reads options, calls the API and prints.

Exit codes: 0 ok, 1 a requirement does not hold, a cell of a grid or every trial of a sweep failed, 2 usage, 3 preflight
refused or a problem that `doctor` found, 4 interrupted and resumable.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from expunge import processes
from expunge.cli import after, bench, certify, compare, grid, presets, requests, serve, studies  # noqa: F401 (commands)
from expunge.cli.app import (
    DryRun,
    Json,
    Overwrite,
    Resume,
    Track,
    Verbose,
    app,
    friendly,
    print_json,
    reporter_for,
    with_plugins,
)
from expunge.cli.auto import check_auto, show_choice
from expunge.cli.fetch import fetch
from expunge.cli.options import load, with_options
from expunge.cli.threads import use_available_cores
from expunge.errors import RequirementError, UsageError
from expunge.models import fast
from expunge.models.places import check_place, is_endpoint
from expunge.models.sizes import SIZES, is_fresh
from expunge.presets import published
from expunge.records.choice import AUTO, AutoSettings
from expunge.records.settings import AuditSettings, RunSettings, TaskOptions, TrainSettings

TASK_OF_A_TRAINING = ("task", "forget", "retain", "map", "data_dir")
"""Training asks for no holdout rows."""


@app.command()
@friendly
def demo(
    out: Annotated[Path, typer.Option("--out", help="Folder for the run.")] = Path("expunge-demo"),
    method: Annotated[str | None, typer.Option("--method", help="Another recipe than the default.")] = None,
    seed: Annotated[int, typer.Option("--seed", help="One seed for everything random.")] = 0,
    verbose: Verbose = False, as_json: Json = False,
) -> None:
    """Train, forget, audit and report on the built-in world; needs nothing."""
    from expunge.cli.showing import show_audit, shown_path
    from expunge.demonstration import demo as run

    reporter = reporter_for(as_json)
    options = {"method": method} if method else {}
    record, result, page = run(out, seed=seed, verbose=verbose, reporter=reporter, **options)
    if as_json:
        return print_json({"record": record.to_json(), "audit": result.to_json(), "report": str(page)})
    more = f"expunge audit {shown_path(out)} --retrained {shown_path(result.retrained[0].path)} --out audit"
    show_audit(result, reporter, out, page=page, follow_up=more, verbose=verbose)


@app.command()
@friendly
@with_plugins
@with_options("rows", TaskOptions, *TASK_OF_A_TRAINING)
@with_options("settings", TrainSettings)
def train(
    model: Annotated[str, typer.Argument(help="Model folder or hub name; or, to start fresh, a config file "
                                              f"or a size: {', '.join(SIZES)}.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for the run.")],
    rows: TaskOptions, settings: TrainSettings,
    method: Annotated[str | None, typer.Option("--method", help='How it is trained: "retain_nll + lora(rank=8)"; or '
                                                                'an exact method that lets rows be deleted later, '
                                                                'such as "sisa(shards=3)".')] = None,
    track: Track = None, resume: Resume = False, overwrite: Overwrite = False, dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Train an original (--split full) or its retrained twin (--split retain)."""
    if not is_fresh(model):
        check_place(model, SIZES, hub=False)  # before torch is imported
    from expunge import api
    from expunge.cli.plans import show_plan, show_trained
    from expunge.records.run import RunRecord

    reporter = reporter_for(as_json)
    task = load(rows, settings)
    if not is_fresh(model):
        check_place(model, SIZES)
    made = api.train(model, task=task, out=out, method=method, settings=settings, resume=resume,
                     overwrite=overwrite, dry_run=dry_run, reporter=reporter, track=track or ())
    if as_json:
        return print_json(made.to_json())
    show_trained(made, out, reporter) if isinstance(made, RunRecord) else show_plan(made, reporter)


@app.command()
@friendly
@with_plugins
@with_options("rows", TaskOptions)
@with_options("settings", RunSettings)
@with_options("auto", AutoSettings)
def forget(
    model: Annotated[str, typer.Argument(help="Run folder, model folder or hub name.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for the run.")],
    rows: TaskOptions, settings: RunSettings, auto: AutoSettings,
    method: Annotated[str | None, typer.Option("--method", help='Recipe, such as "npo + retain_kl + lora(rank=8)"; '
                                               "auto searches one.")] = None,
    preset: Annotated[str | None, typer.Option("--preset", help="A published setting in place of a recipe, such as "
                                                                "npo/tofu-forget10; `expunge presets` lists them."
                                               )] = None,
    track: Track = None, resume: Resume = False, overwrite: Overwrite = False, dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Make a model forget, by a recipe."""
    default = published(preset).task if preset else None
    check_auto(method, auto)
    check_place(model, hub=False)
    from expunge import api
    from expunge.cli.plans import show_forgotten, show_plan
    from expunge.methods.recipe import parse
    from expunge.records.run import RunRecord

    reporter = reporter_for(as_json)
    if method not in (None, AUTO):  # what costs nothing is checked first: the recipe, then files, then the hub
        parse(str(method))
    task = load(rows, settings, default)
    check_place(model)
    done = api.forget(model, method=method, preset=preset, out=out, task=task, settings=settings, resume=resume,
                      overwrite=overwrite, dry_run=dry_run, reporter=reporter, track=track or (),
                      **(dict(auto) if method == AUTO else {}))
    if as_json:
        return print_json(done.to_json())
    if method == AUTO and isinstance(done, RunRecord):
        show_choice(out, reporter)
    show_forgotten(done, out, reporter) if isinstance(done, RunRecord) else show_plan(done, reporter)


@app.command()
@friendly
@with_plugins
@with_options("rows", TaskOptions)
@with_options("settings", AuditSettings)
def audit(
    rows: TaskOptions, settings: AuditSettings,
    subject: Annotated[str | None, typer.Argument(help="Run, model folder, hub name or http://ENDPOINT/v1.")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Folder for the audit; a run's own by default.")] = None,
    original: Annotated[str | None, typer.Option("--original", help="The model before unlearning.")] = None,
    retrained: Annotated[list[str] | None, typer.Option("--retrained", help="Trained without the forget set; "
                                                                            "may be given several times.")] = None,
    require: Annotated[list[str] | None, typer.Option("--require", help='Exit 1 unless it holds, such as '
                                                      '"verdict=forgets" or "forget.keyword@relearn.excess<=0.05"; may '
                                                      'be given several times, also for a finished audit.')] = None,
    api_key_file: Annotated[Path | None, typer.Option(help="Key of an endpoint; else EXPUNGE_API_KEY.")] = None,
    junit: Annotated[Path | None, typer.Option("--junit", help="File for what was required, as JUnit XML.")] = None,
    rescore: Annotated[Path | None, typer.Option("--rescore", help="Score the stored observations of this audit "
                                                                   "again; no model is loaded.")] = None,
    resume: Resume = False, overwrite: Overwrite = False, dry_run: DryRun = False, verbose: Verbose = False,
    as_json: Json = False,
) -> None:
    """Ask a model what it still knows, beside the original and retrained models."""
    gated = bool(require) and (Path(subject or "") / "audit.json").is_file()  # perhaps a finished audit without a model
    places = [p for p in (None if gated else subject, original, *(retrained or ())) if p and not is_endpoint(p)]
    for place in places:
        check_place(place, hub=False)
    from expunge import api
    from expunge.audit.suite import parse_suite
    from expunge.cli.gate import check_junit, gate, gate_stored, stored_audit
    from expunge.cli.plans import show_audit_plan
    from expunge.cli.showing import show_audit
    from expunge.records.score import Audit

    reporter, conditions = reporter_for(as_json), require or []
    check_junit(junit, conditions)
    if rescore is not None:
        again = api.score_again(rescore, suite=settings.suite)
        if as_json:
            print_json([s.to_json() for s in again.scores])
        else:
            show_audit(again, reporter, rescore, verbose=verbose, again=True)
        return gate(again, conditions, junit, alarms=as_json)
    if subject and conditions and (stored := stored_audit(subject, rows, settings, out, original, retrained, resume,
                                                          overwrite, dry_run)):
        return gate_stored(stored, subject, conditions, junit, as_json)
    if gated and subject:
        check_place(subject, hub=False)
    if subject is None:
        raise UsageError("No model was given to audit.", fix="Give a run folder, a model folder or a hub name.")
    if settings.suite:
        parse_suite(settings.suite)
    task = load(rows, settings, None if rows.task or rows.forget else api.task_of(subject))
    for place in places:
        check_place(place)
    try:
        made = api.audit(subject, out=out, task=task, original=original, retrained=retrained or (), require=conditions,
                         settings=settings, resume=resume, overwrite=overwrite, dry_run=dry_run, reporter=reporter,
                         api_key_file=api_key_file)
    except RequirementError as failed:  # told below, after the audit
        made = failed.audit
    if not isinstance(made, Audit):
        return print_json(made) if as_json else show_audit_plan(made, reporter)
    print_json(made.to_json()) if as_json else show_audit(made, reporter, out or subject, verbose=verbose)
    gate(made, conditions, junit, alarms=as_json)


@app.command()
@friendly
def report(
    folders: Annotated[list[Path], typer.Argument(help="Run or audit folders.")],
    out: Annotated[Path, typer.Option("--out", help="The page.")] = Path("report.html"),
    title: Annotated[str | None, typer.Option("--title", help="Heading of the page; its finding by default.")] = None,
    redact: Annotated[bool | None, typer.Option("--redact/--no-redact", help="Replace prompts, answers and names by "
                                                                             "row numbers and lengths.")] = None,
    mail: Annotated[bool, typer.Option("--mail", help="A page to send: redacted unless --no-redact; says what the "
                                                      "folders still hold.")] = False,
    as_json: Json = False,
) -> None:
    """One self-contained page over one run, or several side by side. Needs no torch."""
    from expunge.cli.showing import show_page
    from expunge.report.page import render

    hidden = mail if redact is None else redact
    page = render(folders, out=out, title=title, redact=hidden)
    print_json({"report": str(page), "redacted": hidden}) if as_json else show_page(page, folders, hidden, mail)


@app.command()
@friendly
@with_plugins
def ls(
    what: Annotated[str, typer.Argument(help="methods, objectives, scopes, metrics, tasks, ... or all; or "
                                             "a folder, to list the runs in it.")] = "all",
    by: Annotated[str | None, typer.Option("--by", help="Group by an axis of the taxonomy: target, guarantee, access "
                                                        "or modality.")] = None,
    as_json: Json = False,
) -> None:
    """List what there is, one line each."""
    from expunge.cli.listing import listing, listing_by, listing_json, listing_text
    from expunge.cli.runs import is_folder, show_runs

    if by is not None:
        if is_folder(what):
            raise UsageError("--by groups plug-ins, not runs.", f"{what} is a folder.",
                             f"Leave out --by, or name a kind: expunge ls methods --by {by}.")
        found = listing_by(by, what)
        return print_json(found) if as_json else print(listing_text(found))
    if is_folder(what):
        return show_runs(Path(what), reporter_for(False), as_json)
    if as_json:
        return print_json(listing_json(what))
    print(listing_text(listing(what)))


@app.command()
@friendly
@with_plugins
def explain(name: Annotated[str, typer.Argument(help="A plug-in.")], as_json: Json = False) -> None:
    """Show a plug-in's card: paper, formula, defaults, needs, deviations."""
    from expunge.cli.listing import card_of, card_text

    print(json.dumps(card_of(name), indent=1, ensure_ascii=False) if as_json else card_text(name))


@app.command()
@friendly
@with_plugins
def doctor(plain: Annotated[bool, typer.Option("--plain", help="Say which tricks for speed are on; EXPUNGE_PLAIN=1 "
                                               "in the environment turns all off.")] = False,
           as_json: Json = False) -> None:
    """Check the installation: versions, accelerator, extras, cache, data."""
    from expunge.cli.listing import diagnosis

    state = diagnosis(tricks=plain)
    if as_json:
        print_json(state)
    else:
        for key, value in state.items():
            print(f"{key:<22} {value}")
    if state["problems"] != "none":
        raise typer.Exit(3)


app.command()(friendly(fetch))


def main() -> None:
    """Entry point of the console script. A program of its own may change the process; a library may not."""
    use_available_cores()
    fast.use_process_wide_tricks()
    with processes.closing_group():
        app(prog_name="expunge")


if __name__ == "__main__":
    main()
