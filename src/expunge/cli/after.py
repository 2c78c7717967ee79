"""Commands on a finished run: `merge`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from expunge.cli.app import Json, Overwrite, app, friendly, print_json, reporter_for
from expunge.cli.showing import shown_path


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
    reporter.note(f"Whole weights in {made / 'model'}.")
    reporter.note(f"Next: expunge audit {shown_path(made)}")
