"""Errors for users: what happened, why, and what to do next.

Every error is also a standard-library exception, so that library users can catch `ValueError`. The command line
prints the three parts and exits with `exit_code`; a traceback appears only for bugs.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any


class ExpungeError(Exception):
    """Base class of all errors for users. `exit_code` is the documented process exit code."""

    exit_code = 2

    def __init__(self, what: str, why: str = "", fix: str = "") -> None:
        self.what, self.why, self.fix = what, why, fix
        super().__init__("\n".join(part for part in (what, why, fix) if part))


class UsageError(ExpungeError, ValueError):
    """The request itself is wrong: an unknown name, option or value."""


class DataError(ExpungeError, ValueError):
    """A file or row of the user's data cannot be used."""


class MissingError(ExpungeError, FileNotFoundError):
    """A file, folder, model or data set does not exist."""

    def __str__(self) -> str:  # OSError would print an errno tuple
        return "\n".join(part for part in (self.what, self.why, self.fix) if part)


class PreflightError(ExpungeError, RuntimeError):
    """The plan cannot work; raised before a weight is changed. Holds all problems."""

    exit_code = 3

    def __init__(self, problems: Iterable[ExpungeError]) -> None:
        self.problems = list(problems)
        count = len(self.problems)
        what = f"The plan has {count} problem{'s' if count > 1 else ''}; nothing was run."
        body = "\n".join(
            f"  {i}. {p.what}" + "".join(f"\n     {line}" for line in (p.why, p.fix) if line)
            for i, p in enumerate(self.problems, 1)
        )
        super().__init__(what, body)


class NonFiniteError(ExpungeError, ArithmeticError):
    """Training met NaN or infinity and stopped; the last finite checkpoint is kept."""

    exit_code = 3


class RequirementError(ExpungeError, RuntimeError):
    """A finished audit does not meet what was required of it."""

    exit_code = 1

    def __init__(self, lines: Iterable[str], audit: Any = None) -> None:
        self.audit = audit
        """The audit, which is on disk as well."""
        failed = list(lines)
        super().__init__(f"{len(failed)} requirement{'s do' if len(failed) > 1 else ' does'} not hold.",
                         "\n".join("  " + line for line in failed), "The audit is kept.")


class InterruptedRun(ExpungeError, RuntimeError):
    """The run was interrupted; it can be resumed from disk."""

    exit_code = 4


class MissingExtra(ExpungeError, ImportError):
    """An optional package is needed; the message holds the install line."""


def install_line(extra: str) -> str:
    """How an extra is installed. expunge is on no package index, so its own folder is named, `.`."""
    return f"pip install '.[{extra}]' in a clone of expunge"


def first_line(error: Exception) -> str:
    """Type and first line of an error of another package, at most 200 characters."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {(lines or ['no message'])[0][:200]}"


MANY = 40
"""Maximum number of names that a message lists."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """One sentence that offers the nearest known names and lists the rest."""
    known = sorted(set(known))
    nearest = get_close_matches(name.lower(), known, n=3, cutoff=0.5)
    listing = f"Known: {', '.join(known)}." if known else "None are known."
    if len(known) > MANY:
        listing = "" if nearest else f"There are {len(known)}: `expunge ls` lists them."
    return (f"Did you mean {' or '.join(nearest)}? " if nearest else "") + listing
