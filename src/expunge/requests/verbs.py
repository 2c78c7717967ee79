"""The verbs `requests add`, `run`, `check` and `status`."""

from __future__ import annotations

import secrets
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from expunge import processes
from expunge.benchmarks.loading import load_task
from expunge.console import Reporter, default_reporter
from expunge.data.requested import (
    check_note,
    read_salt,
    row_name,
    rows_asked,
    salt_digest,
    salt_file,
    task_mark,
)
from expunge.errors import DataError, ExpungeError, UsageError
from expunge.ledger.files import write_new
from expunge.ledger.store import DeletionLedger
from expunge.records.requests import (
    DeletionRequest,
    ModelReading,
    RequestStream,
    end_of,
    is_late,
    stream_of,
)
from expunge.records.settings import RunSettings, documented
from expunge.records.task import Task

FILES = "files"
"""What a ledger calls a task of files."""
FIRST_S = 10.0
"""Seconds that a first request waits for another one that is being added."""


def add(ledger: str | Path, *, task: Task | str | None = None, entity: Sequence[str] | str = (),
        ids: Sequence[str] | str = (), rows: str | Path | None = None, query: str | None = None,
        deadline: str | None = None, note: str = "", dry_run: bool = False,
        reporter: Reporter | None = None) -> DeletionRequest:
    """Put one request to delete rows into a ledger; the first one makes the ledger and its salt.

    Args:
        ledger: the file.
        task: the rows that the model was trained on: a name, a run folder or a Task. Only the first request needs it
            where a name leads back to the rows.
        entity, ids, rows, query: which rows, in one of these ways: of these entities; with these ids; those of a file;
            those that contain a text.
        deadline: a day (its end, UTC), or a time.
        note: such as a ticket's number. It stays for good, so it must not name what is deleted.
        dry_run: check everything and change nothing.

    Returns:
        The request as it stands.

    Raises:
        UsageError: an unknown name or row (the nearest are named), a deadline that is no time, another task.
    """
    reporter, path = reporter or default_reporter(), Path(ledger)
    processes.refuse_several("A ledger")
    _check_deadline(deadline)
    stream = _checked(DeletionLedger.open(path)) if path.exists() else None
    found = _task(stream, task, read_salt(path, stream.salt) if stream else b"")
    by, chosen = rows_asked(found, entities=_listed(entity), ids=_listed(ids), file=Path(rows) if rows else None,
                            query=query)
    check_note(note, chosen)
    body = {"by": by, "entities": len({row.entity or row.id for row in chosen}), "deadline": deadline, "note": note}
    if dry_run:
        return DeletionRequest(id="r?", number=-1, added="", rows=tuple(row.id for row in chosen), **body)
    if stream is None:
        stream = _begin(path, found)
    salt, store = read_salt(path, stream.salt), DeletionLedger.open(path)
    names = tuple(dict.fromkeys(row_name(row, salt) for row in chosen))
    entry = store.append("request", body | {"rows": list(names)})
    after = stream_of(store.entries())
    assert after is not None
    made = next(r for r in after.requests if r.number == entry.number)
    if is_late(deadline, entry.time):
        reporter.warn(f"The deadline {deadline} has passed. The request is in the ledger, and counts as late.")
    if entry.clock_behind_s:
        reporter.warn(f"The clock is {entry.clock_behind_s:.0f} seconds behind the last entry, whose time was taken. "
                      "Set it right: deadlines are compared with it.")
    return made


def status(ledger: str | Path) -> RequestStream:
    """All requests of a ledger, what was run and what was found. Nothing is written, and no model is loaded.

    Raises:
        DataError: the ledger holds no request, or an entry was changed.
    """
    found = _checked(DeletionLedger.open(ledger))
    if found is None:
        raise DataError(f"The ledger {ledger} holds no requests.", fix="Add one: expunge requests add "
                        f"{ledger} --task T --entity NAME.")
    return found


@documented(RunSettings)
def run(ledger: str | Path, *, model: str | Path | None = None, task: Task | str | None = None,
        method: str | None = None, out: str | Path | None = None, batch: int | None = None,
        retrained: Sequence[str | Path] | None = None, attacks: Sequence[str] | None = None, resume: bool = False,
        again: bool = False, settings: RunSettings | None = None, reporter: Reporter | None = None,
        **options: Any) -> RequestStream:
    """Carry out the open requests of a ledger, each on the model that the one before left.

    After each run all requests, done and open, and the rows to keep are asked again. What is left out is as in the run
    before.

    Args:
        model: the model to begin from; later the last run's. Another one than that is asked about all deletions first.
        task: as in `add`.
        method: recipe of every run.
        out: folder of the runs, OUT/001 and so on, and of the answers, OUT/asked.
        batch: requests of one run; 1 by default.
        retrained: models that were trained without the rows. They tell what such a model says, and how much two of them
            differ: the noise floor.
        attacks: what the rows are asked under besides, such as "relearn(steps=8)".
        resume: go on with a run that was interrupted.
        again: carry out requests again that came back.
        options: of every run, as in `forget`.

    Returns:
        The stream as it stands, also in OUT/stream.json.

    Raises:
        ReboundError: the model that was given knows deleted rows again.
        InterruptedRun: Ctrl-C; go on with `resume`.
    """
    from expunge.requests.carrying import Carrier

    processes.refuse_several("A stream of requests")
    path = Path(ledger)
    stream = status(path)
    given = RunSettings.build(settings, **options)
    with alone(path):
        carrier = Carrier(path, _task(stream, task, read_salt(path, stream.salt)), reporter or default_reporter())
        return carrier.run(model=model, method=method, out=out, batch=batch, retrained=retrained, attacks=attacks,
                           resume=resume, again=again, options={k: getattr(given, k) for k in given.model_fields_set})


def check(ledger: str | Path, model: str | Path, *, task: Task | str | None = None,
          retrained: Sequence[str | Path] | None = None, attacks: Sequence[str] | None = None,
          reporter: Reporter | None = None) -> ModelReading:
    """Ask any model, such as one that was fine-tuned since, about everything that was deleted, and write down the
    answer.

    Returns:
        What it says; `returned` names the requests that came back, for which an alarm is in the ledger.
    """
    from expunge.requests.carrying import Carrier

    processes.refuse_several("A stream of requests")
    path = Path(ledger)
    stream = status(path)
    with alone(path):
        carrier = Carrier(path, _task(stream, task, read_salt(path, stream.salt)), reporter or default_reporter())
        return carrier.check(model, retrained, attacks)


@contextmanager
def alone(ledger: Path, wait_s: float = 0) -> Iterator[None]:
    """Only one process carries out requests of a ledger; the system frees the lock when a process dies.

    Raises:
        UsageError: another one does, and did not end within `wait_s` seconds.
    """
    db = sqlite3.connect(ledger.with_name(f".{ledger.name}.lock"), timeout=wait_s, isolation_level=None)
    try:
        try:
            db.execute("BEGIN EXCLUSIVE")
        except sqlite3.OperationalError as error:
            if (error.sqlite_errorcode & 0xFF) not in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                raise ExpungeError(f"The folder of {ledger} cannot be written to.", f"SQLite says: {error}.",
                                   "Check the right to write there, and the free space.") from None
            raise UsageError(f"Another process carries out the requests of {ledger}.", "Nothing was changed.",
                             f"Wait until it is done; `expunge requests status {ledger}` shows how far it is. Requests "
                             "can be added meanwhile.") from None
        yield
    finally:
        db.close()


def _checked(store: DeletionLedger) -> RequestStream | None:
    """What the entries come to, once no entry was changed, moved or removed: requests are counted by their order."""
    store.check()
    return stream_of(store.entries())


def make_salt(ledger: Path) -> bytes:
    """A new salt in its file, which only its owner may read; the one that is there, if there is one."""
    with suppress(FileExistsError):
        write_new(salt_file(ledger), f"{secrets.token_hex(32)}\n".encode(), mode=0o600)
    return read_salt(ledger)


def _begin(path: Path, task: Task) -> RequestStream:
    """The stream of a ledger that has none yet. Of two first requests at once, the second takes what the first made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with alone(path, FIRST_S):
        store = DeletionLedger.open(path) if path.exists() else DeletionLedger.create(path)
        stream = _checked(store)
        if stream is None:
            salt = make_salt(path)
            # A file's name may be that of a person, and a bare fingerprint would confirm a guess of the rows.
            store.append("stream", {"task": FILES if task.name.startswith(f"{FILES}:") else task.name,
                                    "fingerprint": task_mark(task, salt), "salt": salt_digest(salt)})
            stream = _checked(store)
            assert stream is not None
        _task(stream, task, read_salt(path, stream.salt))
    return stream


def _task(stream: RequestStream | None, task: Task | str | None, salt: bytes) -> Task:
    """The task, which must be that of the ledger."""
    if task is None:
        if stream is None or stream.task == FILES:
            raise UsageError("No task was given.", "It says which rows the model was trained on.",
                             "Give --task T, or --forget FILE and --retain FILE.")
        task = stream.task
    found = task if isinstance(task, Task) else load_task(task)
    if stream is not None and task_mark(found, salt) != stream.task_fingerprint:
        raise UsageError(f"The ledger is of another task than {found.name}.",
                         f"It is of {stream.task}, with other rows.",
                         "Name that task and the same files, or begin another ledger.")
    return found


def _check_deadline(deadline: str | None) -> None:
    try:
        if deadline is not None:
            end_of(deadline)
    except ValueError:
        raise UsageError(f"--deadline {deadline!r} is no day.", "A deadline is compared with the clock.",
                         "Write a day such as 2026-12-31, or a time such as 2026-12-31T18:00+01:00.") from None


def _listed(names: Sequence[str] | str) -> list[str]:
    return [names] if isinstance(names, str) else list(names)
