"""What all commands share: the application, its error messages and exit codes, and the options of every command."""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from expunge import processes
from expunge.errors import ExpungeError

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


def reporter_for(as_json: bool) -> Reporter:
    from expunge.console import Reporter

    return Reporter(quiet=as_json)


def print_json(data: Any) -> None:
    print(json.dumps(data, indent=1, ensure_ascii=False))
