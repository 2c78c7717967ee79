"""`expunge serve`: a run or a model behind an OpenAI-shaped endpoint."""

from __future__ import annotations

from typing import Annotated

import typer

from expunge.cli.app import app, friendly, reporter_for, with_plugins
from expunge.cli.options import load, with_options
from expunge.models.places import check_place
from expunge.records.serving import ServeSettings
from expunge.records.settings import RunSettings, TaskOptions


@app.command()
@friendly
@with_plugins
@with_options("rows", TaskOptions, "task", "forget", "retain", "map", "data_dir")
@with_options("settings", ServeSettings)
def serve(
    model: Annotated[str, typer.Argument(help="Run folder, model folder or hub name.")],
    rows: TaskOptions, settings: ServeSettings,
    guard: Annotated[str | None, typer.Option("--guard", help="A guard to put before the model, such as uld; "
                                              "built now on the run's rows or those named.")] = None,
) -> None:
    """Serve a run or a model in the shape of OpenAI's API (extra: serve)."""
    check_place(model, hub=False)
    from expunge.serve import web  # noqa: F401 (says first that the extra is missing)
    from expunge.serving import guard_of
    from expunge.serving import serve as run

    if guard is not None:
        guard_of(guard)
    named = rows.task is not None or rows.forget is not None
    task = load(rows, RunSettings()) if named else None
    run(model, guard=guard, task=task, settings=settings, reporter=reporter_for(False))
