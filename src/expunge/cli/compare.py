"""`expunge compare`: runs set against each other, with what is beyond noise."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from expunge.cli.app import Json, app, friendly, print_json, reporter_for
from expunge.console import Reporter
from expunge.errors import UsageError, did_you_mean
from expunge.records.comparison import Comparison


@app.command()
@friendly
def compare(
    folders: Annotated[list[Path], typer.Argument(help="Folders of runs, audits or grids; runs that differ in nothing "
                                                       "but the seed are one group.")],
    form: Annotated[str, typer.Option("--format", help="table, csv, latex or json.")] = "table",
    scores: Annotated[str | None, typer.Option("--scores", help="Names by commas, forget.probability@ATTACK among "
                                                                "them; all, or attacks. All where they are few, else "
                                                                "the usual ones.")] = None,
    page: Annotated[Path | None, typer.Option("--page", help="Write one page on which two of the runs are chosen and "
                                                             "compared row by row.")] = None,
    projection: Annotated[str, typer.Option("--projection", help="How the page draws hidden states: pca, or umap "
                                                                 "(extra: umap).")] = "pca",
    redact: Annotated[bool, typer.Option("--redact", help="Replace prompts, answers and names on the page by row "
                                                          "numbers and lengths.")] = False,
    serve: Annotated[bool, typer.Option("--serve", help="Serve that page on this machine, made anew when the folders "
                                                        "change, until Ctrl-C.")] = False,
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="Port of --serve; 0: any that is free.")] = 8765,
    as_json: Json = False,
) -> None:
    """Compare runs: mean and deviation over seeds, and which differences are beyond noise. Needs no torch."""
    given = {"--format": form != "table", "--scores": scores is not None}
    if (serve or page is not None) and any(given.values()):
        raise UsageError(f"{' and '.join(n for n, is_given in given.items() if is_given)} would have no effect.",
                         "The page shows every score in a form of its own.", "Leave it out, or leave out the page.")
    if projection != "pca" and not (serve or page is not None):
        raise UsageError("--projection needs --page or --serve.", "A table draws no hidden states.",
                         "Name the page with --page FILE.")
    if serve:
        if page is not None or redact:
            raise UsageError("--serve excludes --page and --redact.", "It shows the page here, with its rows.",
                             "Leave them out, or --serve.")
        from expunge.comparator.serve import serve as show

        return show(folders, port=port, projection=projection, announce=reporter_for(as_json).note)
    if page is not None:
        return write_page(folders, page, projection, redact, as_json)
    if redact:
        raise UsageError("--redact needs --page.", "A table holds no rows, and nobody else sees --serve.",
                         "Name the page with --page FILE.")
    from expunge.report.comparison import compare as run
    from expunge.report.comparison_text import FORMATS

    form = "json" if as_json else form
    if form not in ("table", *FORMATS):
        raise UsageError(f"There is no format {form!r}.", did_you_mean(form, ("table", *FORMATS)))
    found = run(folders, scores=scores)
    if form == "table":
        show_comparison(found, reporter_for(False))
    else:
        print(FORMATS[form](found), end="")


def write_page(folders: list[Path], out: Path, projection: str, redact: bool, as_json: bool) -> None:
    from expunge.comparator.page import comparator

    made = comparator(folders, out=out, projection=projection, redact=redact)
    print_json({"page": str(made), "redacted": redact}) if as_json else print(made)


def show_comparison(found: Comparison, reporter: Reporter) -> None:
    """What the letters stand for, the table, and what can be said of each score."""
    from expunge.report.comparison_text import about, aligned, finding, left_out, notes, table

    def line(text: str, style: str | None = None) -> None:
        reporter.out.print(text, style=style, markup=False, soft_wrap=True)

    for caution in found.cautions:
        reporter.warn(caution)
    for one in found.groups:
        line(about(one))
    line("")
    for text in (*aligned(*table(found)), ""):
        line(text)
    for score in found.scores:
        line(finding(score))
    line("")
    for text in left_out(found):
        line(text)
    for text in notes(found):
        line(text, "dim")
