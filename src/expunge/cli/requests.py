"""`expunge requests`: deletion requests one after the other, kept in a ledger."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from expunge.cli.app import DryRun, Json, Resume, app, friendly, print_json, reporter_for, with_plugins
from expunge.cli.options import with_options
from expunge.models.places import check_place
from expunge.records.settings import RunSettings, TaskOptions

if TYPE_CHECKING:
    from expunge.console import Reporter
    from expunge.records.requests import RequestStream
    from expunge.records.task import Task

group = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
app.add_typer(group, name="requests", help="Delete request by request: add, run, check and status of a ledger.")

OPTIONS = tuple(name for name in RunSettings.model_fields if name not in ("limit", "on_overlap"))
"""The rows of a request are never cut."""
LISTED = 12
"""Requests that a screen lists; of more, those that need something done and then the last."""
LedgerFile = Annotated[Path, typer.Argument(help="File of the ledger.")]
Retrained = Annotated[list[str] | None, typer.Option("--retrained", help="Trained without the rows: the level and the "
                                                     "noise that deleted rows are compared with. May be given several "
                                                     "times.")]
Attacks = Annotated[list[str] | None, typer.Option("--attack", help="Ask the rows under this attack too, such as "
                                                                    "\"relearn(steps=8)\". May be given several "
                                                                    "times.")]


def _given(files: TaskOptions) -> Task | None:
    from expunge.benchmarks.loading import as_task  # imports no torch

    return as_task(files.task, RunSettings(), forget=files.forget, retain=files.retain, holdout=files.holdout,
                   mapping=files.map, data_dir=files.data_dir) if files.task or files.forget else None


@group.command()
@friendly
@with_options("files", TaskOptions)
def add(
    ledger: LedgerFile, files: TaskOptions,
    entity: Annotated[list[str] | None, typer.Option("--entity", help="Whom or what the rows are about; may be given "
                                                                      "several times.")] = None,
    ids: Annotated[list[str] | None, typer.Option("--ids", help="Id of a row; may be given several times.")] = None,
    rows: Annotated[Path | None, typer.Option("--rows", help="File with the rows, as the task has them.")] = None,
    query: Annotated[str | None, typer.Option("--query", help="All rows that contain this text.")] = None,
    deadline: Annotated[str | None, typer.Option("--deadline", help="Day by whose end it must be done (UTC), such as "
                                                                    "2026-12-31; or a time.")] = None,
    note: Annotated[str, typer.Option("--note", help="Such as a ticket's number. It stays for good.")] = "",
    dry_run: DryRun = False, as_json: Json = False,
) -> None:
    """Put a request into a ledger. The first one makes the ledger and needs --task."""
    from expunge.cli.showing import shown_path
    from expunge.requests import add as put

    reporter = reporter_for(as_json)
    made = put(ledger, task=_given(files), entity=entity or (), ids=ids or (), rows=rows, query=query,
               deadline=deadline, note=note, dry_run=dry_run, reporter=reporter)
    if as_json:
        return print_json(made.to_json())
    what = f"{len(made.rows)} rows about {made.entities} {'entity' if made.entities == 1 else 'entities'}"
    if dry_run:
        return reporter.out.print(f"It would name {what}: {', '.join(made.rows[:LISTED])}"
                                  f"{' ...' * (len(made.rows) > LISTED)}", markup=False, soft_wrap=True)
    reporter.out.print(f"{made.id} is in the ledger: {what}"
                       f"{f', due {made.deadline}' if made.deadline else ''}.\n"
                       f"Next: expunge requests run {shown_path(ledger)}", markup=False, soft_wrap=True)


@group.command()
@friendly
@with_plugins
@with_options("files", TaskOptions)
@with_options("settings", RunSettings, *OPTIONS)
def run(
    ledger: LedgerFile, files: TaskOptions, settings: RunSettings,
    model: Annotated[str | None, typer.Option("--model", help="The model to begin from; later that of the last "
                                                              "run.")] = None,
    method: Annotated[str | None, typer.Option("--method", help="Recipe of each run; that of the last run when left "
                                                                "out.")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Folder of the runs, OUT/001 and so on.")] = None,
    batch: Annotated[int | None, typer.Option("--batch", min=1, help="Requests of one run; 1 by default.")] = None,
    retrained: Retrained = None, attack: Attacks = None,
    again: Annotated[bool, typer.Option("--again", help="Carry out requests again that came back.")] = False,
    resume: Resume = False, as_json: Json = False,
) -> None:
    """Carry out the open requests, each on the model that the one before left, and ask about all earlier ones."""
    for place in (*([model] if model else ()), *(retrained or ())):
        check_place(place)
    from expunge.requests import run as carry_out

    reporter = reporter_for(as_json)
    found = carry_out(ledger, model=model, task=_given(files), method=method, out=out, batch=batch,
                      retrained=retrained, attacks=attack, resume=resume, again=again, settings=settings,
                      reporter=reporter)
    print_json(found.to_json()) if as_json else show_status(found, ledger, reporter)
    if found.in_state("returned"):
        raise typer.Exit(1)


@group.command()
@friendly
@with_options("files", TaskOptions)
def check(
    ledger: LedgerFile, files: TaskOptions,
    model: Annotated[str, typer.Option("--model", help="Any later model, such as one that was fine-tuned since.")],
    retrained: Retrained = None, attack: Attacks = None, as_json: Json = False,
) -> None:
    """Ask a later model about all that was deleted. What came back is an alarm in the ledger, and exit code 1."""
    for place in (model, *(retrained or ())):
        check_place(place)
    from expunge.requests import check as look

    reporter = reporter_for(as_json)
    found = look(ledger, model, task=_given(files), retrained=retrained, attacks=attack, reporter=reporter)
    if as_json:
        print_json(found.to_json())
    elif not found.returned:
        reporter.out.print(f"Nothing that was deleted came back in {model} ({found.model}).", markup=False,
                           soft_wrap=True)
    if found.returned:
        raise typer.Exit(1)


@group.command()
@friendly
def status(
    ledger: LedgerFile,
    page: Annotated[Path | None, typer.Option("--page", help="Write a page with the curves to this file.")] = None,
    as_json: Json = False,
) -> None:
    """Show how the requests stand: open, late, done, come back, and what is next."""
    from expunge.records.base import write_text
    from expunge.requests import status as read

    reporter, found = reporter_for(as_json), read(ledger)
    if page is not None:
        from expunge.requests.telling import render_requests

        write_text(page, render_requests(found))
    print_json(found.to_json()) if as_json else show_status(found, ledger, reporter)
    if page is not None:
        reporter.note(f"The page: {page}")


def show_status(found: RequestStream, ledger: Path, reporter: Reporter) -> None:
    """One screen."""
    from expunge.report.comparison_text import aligned
    from expunge.requests.telling import counted, facts, next_command

    urgent = [r for r in found.requests if r.state != "done" or r.late]
    others = [r for r in found.requests if r not in urgent]
    shown = sorted((urgent + others[::-1])[:LISTED], key=lambda r: r.number)
    for line in aligned(["request", "entry", "rows", "added", "deadline", "state", "run", "left"], [
            [r.id, str(r.number), str(len(r.rows)), r.added[:10], r.deadline or "", r.state + ", late" * r.late,
             r.run or "", f"{r.after['probability']:.3f}" if "probability" in r.after else ""] for r in shown]):
        reporter.out.print(line, markup=False, soft_wrap=True)
    if len(found.requests) > len(shown):
        reporter.out.print(f"... and {len(found.requests) - len(shown)} more", markup=False)
    for text in ("", f"{counted(found)}.", *facts(found), f"Next: {next_command(found, str(ledger))}"):
        reporter.out.print(text, markup=False, soft_wrap=True)
