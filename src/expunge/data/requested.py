"""Which rows of a task a deletion request names, and how a ledger names them without their text.

A row is named by HMAC-SHA-256 of what it says, with a salt that lies in a private file beside the ledger. With the salt
and the task's rows the request can be carried out; without the salt nobody can tell or guess a row. Rows that say the
same have one name, so a copy of a deleted row is deleted as well.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from pathlib import Path

from expunge.data.duplicates import row_key
from expunge.data.tasks import task_from_files
from expunge.errors import DataError, MissingError, UsageError
from expunge.records.base import canonical
from expunge.records.task import Example, Task

SHOWN = 60
"""Letters of a row that a message shows."""
SHORTEST = 4
"""Letters of a name or text that is looked for in a note; shorter ones stand in other words."""


def salt_file(ledger: Path) -> Path:
    return ledger.with_name(f"{ledger.name}.salt")


def read_salt(ledger: Path, digest: str | None = None) -> bytes:
    """The salt of a ledger.

    Args:
        digest: what the ledger says of it.

    Raises:
        MissingError: there is none.
        DataError: it is another one.
    """
    place = salt_file(ledger)
    if not place.is_file():
        raise MissingError(f"There is no salt {place}.", "The ledger names rows by salted hashes, so without it no "
                           "request can be carried out.", "Restore it from a copy; it belongs beside the ledger.")
    try:
        found = bytes.fromhex(place.read_text(encoding="ascii"))
    except (ValueError, UnicodeDecodeError):
        found = b""
    if len(found) != 32 or digest not in (None, salt_digest(found)):
        raise DataError(f"{place} is not the salt of this ledger.", "It was changed, or belongs to another ledger.",
                        "Restore it from a copy.")
    return found


def salt_digest(salt: bytes) -> str:
    """What the ledger says of the salt, so that a wrong one is told."""
    return hashlib.sha256(salt).hexdigest()


def row_name(row: Example, salt: bytes) -> str:
    """Hex of the salted hash of what a row says; case and spacing are no matter, as where rows are compared."""
    return hmac.new(salt, canonical(list(row_key(row))).encode(), hashlib.sha256).hexdigest()[:32]


def task_mark(task: Task, salt: bytes) -> str:
    """Salted hash of a task's fingerprint: without the salt nobody can confirm a guess of its rows."""
    return hmac.new(salt, f"task {task.fingerprint}".encode(), hashlib.sha256).hexdigest()[:32]


def deletable(task: Task) -> list[Example]:
    """Rows that a request may name: all that models of the task are trained on."""
    return [*task.forget, *task.retain, *task.background]


def rows_asked(task: Task, *, entities: Sequence[str] = (), ids: Sequence[str] = (), file: Path | None = None,
               query: str | None = None) -> tuple[str, list[Example]]:
    """How the rows are named (entity, ids, rows or query), and the rows.

    Raises:
        UsageError: none or several ways are given; a name is unknown, or no row fits. It names the nearest.
    """
    ways = {"entity": bool(entities), "ids": bool(ids), "rows": file is not None, "query": query is not None}
    given = [way for way, there in ways.items() if there]
    if len(given) != 1:
        raise UsageError("A request names its rows in one way." if given else "The request names no rows.",
                         f"Given are {' and '.join('--' + way for way in given)}." if given else "",
                         "Give --entity NAME, --ids ID, --rows FILE or --query TEXT.")
    rows = deletable(task)
    if entities:
        return "entity", _named(entities, rows, [row.entity for row in rows], "entity", task.name)
    if ids:
        return "ids", _named(ids, rows, [row.id for row in rows], "row with the id", task.name)
    if file is not None:
        return "rows", _of_file(file, rows, task.name)
    words = " ".join((query or "").casefold().split())
    if len(words) < 2:
        raise UsageError(f"--query {query!r} is too short.", "It would name rows that have nothing in common.",
                         "Give a name, or a part of a sentence.")
    found = [row for row in rows if words in " ".join(f"{row.entity} {_text(row)}".casefold().split())]
    if not found:
        near = _nearest(words, {row.entity for row in rows} | {_text(row) for row in rows})
        raise UsageError(f"No row of {task.name} contains {query!r}.", near, "Look at the rows: expunge forget ... "
                         "--dry-run shows how they are read.")
    return "query", found


def find_rows(names: Iterable[str], task: Task, salt: bytes) -> dict[str, list[Example]]:
    """The rows of each name, all of those that say the same.

    Raises:
        DataError: the task has no such row.
    """
    known: dict[str, list[Example]] = {}
    for row in deletable(task):
        known.setdefault(row_name(row, salt), []).append(row)
    wanted = list(names)
    missing = [name for name in wanted if name not in known]
    if missing:
        raise DataError(f"{len(missing)} of the {len(wanted)} rows that the ledger names are not in the task "
                        f"{task.name}.", "It is another task, or its rows were changed since they were requested.",
                        "Name the task and the files that the requests were made with.")
    return {name: known[name] for name in wanted}


def check_note(note: str, rows: Iterable[Example]) -> None:
    """Raises UsageError for a note that says what is to be deleted: a ledger is kept for good."""
    said = " ".join(note.casefold().split())
    for row in rows:
        for text in (row.entity, row.prompt, row.answer, row.short_answer):
            plain = " ".join(text.casefold().split())
            if len(plain) >= SHORTEST and plain in said:
                raise UsageError("The note names what is to be deleted.", f"It contains {text[:SHOWN]!r}, and a ledger "
                                 "keeps its notes for good.", "Say where the request came from instead, such as a "
                                 "ticket's number.")


def _named(given: Sequence[str], rows: Sequence[Example], names: Sequence[str], what: str,
           task: str) -> list[Example]:
    """Rows whose name is among those given, exactly or but for case."""
    exact = set(names)
    by_case = {name.casefold(): name for name in exact}
    wanted = set()
    for name in given:
        found = name if name in exact else by_case.get(name.casefold())
        if not found:
            raise UsageError(f"There is no {what} {name!r} in the task {task}.", _nearest(name, exact),
                             "Nothing was added to the ledger.")
        wanted.add(found)
    return [row for row, name in zip(rows, names, strict=True) if name in wanted]


def _of_file(file: Path, rows: Sequence[Example], task: str) -> list[Example]:
    known: dict[tuple[str, ...], list[Example]] = {}
    for row in rows:
        known.setdefault(row_key(row), []).append(row)
    found: dict[int, Example] = {}
    for row in task_from_files(file, None, None, mapping=None).forget:
        same = known.get(row_key(row))
        if same is None:
            raise UsageError(f"{file} holds a row that is not in the task {task}: {_text(row)[:SHOWN]!r}.",
                             _nearest(_text(row), {_text(other) for other in rows}), "Nothing was added to the ledger.")
        found |= {id(other): other for other in same}
    return list(found.values())


def _text(row: Example) -> str:
    return f"{row.prompt} {row.answer}".strip()


def _nearest(name: str, known: Iterable[str]) -> str:
    folded = {" ".join(text.casefold().split()): text for text in known if text}
    near = get_close_matches(" ".join(name.casefold().split()), folded, n=3, cutoff=0.4)
    if not near:
        return f"Nothing like it is among the {len(folded)} that there are."
    return "The nearest: " + ", ".join(repr(folded[text][:SHOWN]) for text in near) + "."
