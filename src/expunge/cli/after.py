"""Commands on a finished run: `merge` and `purge`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from expunge.cli.app import DryRun, Json, Overwrite, app, friendly, print_json, reporter_for
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


@app.command()
@friendly
def purge(
    run: Annotated[Path, typer.Argument(help="Folder of a run or of an audit.")],
    dry_run: DryRun = False, as_json: Json = False,
) -> None:
    """Remove the rows of a run, all answers to them and their cached copies, and write down that it was done."""
    from expunge.purging import purge as remove

    made = remove(run, dry_run=dry_run)
    if as_json:
        return print_json(made.to_json())
    reporter = reporter_for(as_json)
    did = "Would remove" if dry_run else "Removed"
    reporter.note(f"{did} {', '.join(made.removed) or 'nothing'} and {made.cached} cached files "
                  f"({made.removed_bytes / 1e6:.1f} MB).")
    reporter.note("Kept:\n" + "\n".join(f"  {line}" for line in made.kept))
    reporter.note("Not looked at: audits in other folders, pages elsewhere, and the files that the rows came from.")
