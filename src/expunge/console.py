"""The only module that prints. Progress goes to stderr: transient bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from expunge import processes
from expunge.errors import ExpungeError


def default_reporter() -> Reporter:
    """What the Python verbs report to unless told otherwise: it shows progress in a notebook and on a terminal where
    somebody types, and nothing in a script or a test."""
    return Reporter(quiet=not (in_notebook() or hasattr(sys, "ps1")))


def in_notebook() -> bool:
    """Whether this is the kernel of a notebook."""
    shell = sys.modules.get("IPython")
    found = shell.get_ipython() if shell is not None else None
    return type(found).__name__ == "ZMQInteractiveShell"


class Reporter:
    """Prints progress and results. `quiet` prints nothing: in scripts, with `--json`, outside the main process."""

    def __init__(self, quiet: bool = False) -> None:
        self.quiet = quiet = quiet or not processes.is_main()
        self.brief = False
        """Whether details are left out."""
        self.err = Console(stderr=True, quiet=quiet, highlight=False)
        self.out = Console(highlight=False)
        self._live = self.err.is_terminal and not quiet
        self._notebook = in_notebook() and not quiet
        self._progress: Progress | None = None

    def note(self, *texts: str) -> None:
        """One line each about what happens next."""
        for text in texts:
            self.err.print(text, markup=False, soft_wrap=True)

    def detail(self, *texts: str) -> None:
        """Notes that tell nothing where rows and model are the built-in ones."""
        if not self.brief:
            self.note(*texts)

    def warn(self, text: str) -> None:
        """A warning that the user should act on."""
        self.err.print("warning: " + text, style="yellow", markup=False, soft_wrap=True)

    def task(self, title: str, total: int) -> Callable[..., None]:
        """Announce `total` units of work; call the result with units done and an optional short text."""
        if self.quiet:
            return lambda n=1, text="": None
        if self._notebook:
            return self._widget(title, total)
        if self._live:
            return self._bar(title, total)
        started, done, shown = time.monotonic(), 0, 0.0

        def line(n: int = 1, text: str = "") -> None:
            nonlocal done, shown
            done += n
            if done >= total or time.monotonic() - shown > 10:
                shown = time.monotonic()
                self.note(f"  {title}: {done}/{total} in {shown - started:.0f}s {text}".rstrip())

        return line

    def _widget(self, title: str, total: int) -> Callable[..., None]:
        """A bar of a notebook: a widget where ipywidgets is installed, else text."""
        from tqdm.auto import tqdm

        bar = tqdm(total=total, desc=title, leave=False)

        def advance(n: int = 1, text: str = "") -> None:
            bar.set_postfix_str(text, refresh=False)
            bar.update(n)
            if bar.n >= total:
                bar.close()

        return advance

    def _bar(self, title: str, total: int) -> Callable[..., None]:
        if self._progress is None:
            self._progress = Progress(
                TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
                TextColumn("{task.fields[text]}"), console=self.err, transient=True,
            )
            self._progress.start()
        progress = self._progress
        number: TaskID = progress.add_task(title, total=total, text="")
        done = 0

        def advance(n: int = 1, text: str = "") -> None:
            nonlocal done
            done += n
            progress.update(number, advance=n, text=text, visible=done < total)

        return advance

    def close(self) -> None:
        """Stop live bars, so that the next output is printed below them."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    def error(self, problem: ExpungeError) -> None:
        """Print what happened, why, and what to do."""
        self.close()
        console = Console(stderr=True, highlight=False)
        console.print("error: " + problem.what, style="bold red", markup=False, soft_wrap=True)
        for line in "\n".join((problem.why, problem.fix)).splitlines():
            if line.strip():
                console.print(line if line.startswith("  ") else "  " + line, markup=False, soft_wrap=True)

    def table(self, title: str, columns: list[str], rows: list[list[Any]], caption: str = "") -> None:
        """A table on stdout."""
        self.close()
        table = Table(title=title or None, title_justify="left", caption=caption or None, caption_justify="left",
                      show_edge=False, pad_edge=False)
        for i, column in enumerate(columns):
            table.add_column(column, justify="left" if i == 0 else "right", overflow="fold")
        for row in rows:
            table.add_row(*(cell if isinstance(cell, str) else format_number(cell) for cell in row))
        console = self.out if self.out.is_terminal else Console(highlight=False, width=110)
        console.print(table)


def format_number(value: float | int | None) -> str:
    """Three decimals, scientific notation below 0.001, a dash for None."""
    if value is None:
        return "-"
    if isinstance(value, int):
        return str(value)
    if value != 0 and abs(value) < 1e-3:
        return f"{value:.1e}"
    return f"{value:.3f}" if abs(value) < 100 else f"{value:.1f}"


