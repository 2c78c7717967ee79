"""What all commands share: the application, its error messages and exit codes, and the options of every command."""

from __future__ import annotations

import functools
import importlib.metadata
import inspect
import json
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import typer.core

from expunge import processes
from expunge.errors import ExpungeError

if TYPE_CHECKING:
    from expunge.console import Reporter

ORDER = ("demo", "train", "forget", "audit", "report", "merge", "eval", "purge", "requests", "sweep", "grid", "bench",
         "compare", "certify", "verify", "serve", "shadows", "study", "ls", "presets", "explain", "doctor", "fetch")
"""Commands as --help lists them: first what most people need; those not named here come last."""


class InOrder(typer.core.TyperGroup):
    """The commands in that order, wherever they are defined."""

    def list_commands(self, ctx: Any) -> list[str]:
        known = {name: place for place, name in enumerate(ORDER)}
        return sorted(super().list_commands(ctx), key=lambda name: known.get(name, len(known)))


app = typer.Typer(
    cls=InOrder, name="expunge", no_args_is_help=True, pretty_exceptions_enable=False,
    help="Make a model forget, and prove it.", rich_markup_mode=None,
    epilog="Exit codes: 0 ok, 1 a requirement does not hold, a cell of a grid or every trial of a sweep failed, 2 "
           "usage, 3 preflight refused, 4 interrupted and resumable. A method, an attack or a score of your own: "
           "--plugin FILE.py.",
)



def _version(asked: bool) -> None:
    if asked:
        print(f"expunge {importlib.metadata.version('expunge')}")
        raise typer.Exit()


@app.callback()
def _expunge(version: Annotated[bool, typer.Option("--version", is_eager=True, callback=_version,
                                                   help="Print the version.")] = False) -> None:
    """Make a model forget, and prove it."""


Resume = Annotated[bool, typer.Option("--resume", help="Go on where an interrupted run stopped.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an output folder of expunge's.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Check and show the plan; change nothing.")]
Track = Annotated[list[str] | None, typer.Option("--track", help="Tracker that gets the figures of every step: "
                                                               "tensorboard, wandb, trackio ...; may be given several "
                                                               "times.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")]
Verbose = Annotated[bool, typer.Option("--verbose", help="Print every score, attack and finding as well.")]


def friendly(command: Callable[..., None]) -> Callable[..., None]:
    """Turn our errors into one message and their exit code; a traceback is only for our own mistakes."""

    @functools.wraps(command)
    def run(*args: Any, **options: Any) -> None:
        from expunge.console import Reporter

        go_on = "Go on with --resume." if "resume" in options else "Repeat the command."
        try:
            with processes.main_output_only(), terminated_like_interrupted():
                command(*args, **options)
        except ExpungeError as problem:
            if processes.should_report(problem):
                Reporter().error(problem)
            raise typer.Exit(problem.exit_code) from None
        except KeyboardInterrupt:
            if processes.is_main():
                Reporter().error(ExpungeError("Interrupted.", "What was finished is on disk.", go_on))
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


@contextmanager
def terminated_like_interrupted() -> Iterator[None]:
    """SIGTERM becomes a KeyboardInterrupt, as Ctrl-C does. Not under a launcher, which ends processes that wait for
    each other."""

    def interrupt(signum: int, frame: Any) -> None:
        raise KeyboardInterrupt

    if processes.count() > 1 or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def with_plugins(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the option --plugin: files whose plug-ins are known while it runs."""

    @functools.wraps(command)
    def run(*, plugin: list[Path] | None, **options: Any) -> None:
        from expunge.registry import add_file

        for path in plugin or ():
            add_file(path)
        command(**options)

    own = inspect.signature(command, eval_str=True)
    option = inspect.Parameter("plugin", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Plugins)
    parameters = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own.parameters.values()]
    run.__signature__ = own.replace(parameters=[*parameters, option])  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in (*parameters, option)}
    return run


Plugins = Annotated[list[Path] | None, typer.Option("--plugin", help="Python file with plug-ins of your own; may be "
                                                                     "given several times.")]


def reporter_for(as_json: bool) -> Reporter:
    from expunge.console import Reporter

    return Reporter(quiet=as_json)


def print_json(data: Any) -> None:
    print(json.dumps(data, indent=1, ensure_ascii=False))
