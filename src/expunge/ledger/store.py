"""The ledger of deletions: one SQLite file to which entries are only appended.

Every entry is a leaf of a Merkle tree, so one hash, the root, stands for all of them. `check` hashes everything again:
an edited, reordered or removed entry changes the root. That entries at the end were cut off can only be told by
somebody who kept an older head; every certificate holds one.

Writers take turns (`BEGIN IMMEDIATE`), and an entry is there in full or not at all, whenever a writer is killed or the
disk is full. Triggers refuse to change or delete a row; they stop mistakes, the hashes tell what went around them.
"""

from __future__ import annotations

import json
import os
import secrets
import sqlite3
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from expunge.errors import DataError, ExpungeError, MissingError, UsageError
from expunge.ledger import merkle
from expunge.ledger.entries import ConsistencyProof, InclusionProof, LedgerEntry, LedgerHead
from expunge.ledger.files import place_new
from expunge.records.base import canonical

APPLICATION = 0x78706E67
"""Marks the file as a ledger of expunge's (SQLite's application_id)."""
VERSION = 1
WAIT_S = 30.0
"""How long a writer waits for its turn."""
SCHEMA = (
    "CREATE TABLE about (id TEXT NOT NULL)",
    "CREATE TABLE entries (number INTEGER PRIMARY KEY, time TEXT NOT NULL, clock_behind_s REAL NOT NULL, "
    "kind TEXT NOT NULL, body TEXT NOT NULL, leaf BLOB NOT NULL, root BLOB NOT NULL, peaks BLOB NOT NULL)",
    "CREATE TRIGGER next_number BEFORE INSERT ON entries WHEN NEW.number IS NOT (SELECT count(*) FROM entries) "
    "BEGIN SELECT RAISE(ABORT, 'a ledger is only appended to'); END",
    *(f"CREATE TRIGGER no_{verb}_of_{table} BEFORE {verb} ON {table} "
      "BEGIN SELECT RAISE(ABORT, 'a ledger is only appended to'); END"
      for table in ("about", "entries") for verb in ("UPDATE", "DELETE")),
)
COLUMNS = "number, time, clock_behind_s, kind, body, leaf, root, peaks"
AGAIN = "Restore it from a copy. Every certificate names an older head that a true copy still has."


class TamperedError(DataError):
    """A ledger or a certificate is not what was written or signed."""

    exit_code = 1


class PendingEntry:
    """An entry that is about to be appended, and the tree with it in it."""

    def __init__(self, inclusion: Callable[[int], InclusionProof], entry: LedgerEntry) -> None:
        self.inclusion = inclusion
        """Proves an entry, this one or an earlier one, in that tree."""
        self.proof = inclusion(entry.number)


class DeletionLedger:
    """A ledger in one file. Holds no open file between calls, so it may be kept and shared as one likes.

    Raises, in every method:
        TamperedError: a row that was read is not what was written.
        UsageError: another process kept the ledger for itself for `WAIT_S` seconds, or it cannot be written to.
        ExpungeError: the disk is full, or failed; nothing was changed.
    """

    def __init__(self, path: Path, identity: str) -> None:
        """Use `create` or `open`."""
        self.path, self.id = path, identity

    def __repr__(self) -> str:
        return f"DeletionLedger({str(self.path)!r})"

    def __bool__(self) -> bool:
        """An empty ledger is a ledger."""
        return True

    @classmethod
    def create(cls, path: str | Path) -> Self:
        """A new, empty ledger.

        Raises:
            UsageError: the file exists.
        """
        path, identity = Path(path), secrets.token_hex(16)
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, made = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        os.close(handle)
        try:
            with _connected(Path(made), named=path) as db:
                db.execute("BEGIN IMMEDIATE")
                for statement in SCHEMA:
                    db.execute(statement)
                db.execute("INSERT INTO about VALUES (?)", (identity,))
                db.execute(f"PRAGMA application_id = {APPLICATION}")
                db.execute(f"PRAGMA user_version = {VERSION}")
                db.execute("COMMIT")
            os.chmod(made, 0o644)
            place_new(Path(made), path)
        except FileExistsError:
            raise UsageError(f"{path} already exists.", "A ledger is only appended to, never replaced.",
                             "Use it as it is, or name another file.") from None
        finally:
            Path(made).unlink(missing_ok=True)
        return cls(path, identity)

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """A ledger that exists.

        Raises:
            MissingError: there is no such file.
            DataError: it is no ledger, or one of a later version.
        """
        path = Path(path)
        if not path.is_file():
            raise MissingError(f"There is no ledger {path}.", "It is a folder." if path.is_dir() else "",
                               "Name the file of a ledger, or make one: `expunge certify RUN --ledger FILE` does.")
        with _connected(path) as db:
            application, = db.execute("PRAGMA application_id").fetchone()
            version, = db.execute("PRAGMA user_version").fetchone()
            if application != APPLICATION:
                raise DataError(f"{path} is no ledger.", "It is a database of something else, or a damaged ledger.",
                                "Name the file that `expunge certify` or `expunge requests` wrote.")
            if version != VERSION:
                raise DataError(f"{path} is a ledger of version {version}.", f"This expunge reads version {VERSION}.",
                                "Use the version of expunge that wrote it.")
            rows = db.execute("SELECT id FROM about").fetchall()
        if len(rows) != 1 or not isinstance(rows[0][0], str):
            raise TamperedError(f"{path} does not say which ledger it is.", "Its id was removed or changed.", AGAIN)
        return cls(path, rows[0][0])

    def append(self, kind: str, body: Mapping[str, Any]) -> LedgerEntry:
        """Add an entry; it is on disk when this returns.

        Raises:
            DataError: the body is no JSON object.
        """
        with self.appending(kind, body) as pending:
            return pending.proof.entry

    @contextmanager
    def appending(self, kind: str, body: Mapping[str, Any]) -> Iterator[PendingEntry]:
        """Add an entry when the block ends; an exception in it leaves the ledger as it was.

        For what must be written together with the entry. Other writers wait meanwhile.
        """
        checked = _as_json(body)
        with _connected(self.path) as db:
            db.execute("BEGIN IMMEDIATE")
            try:
                entry = self._insert(db, kind, checked)
                yield PendingEntry(lambda number: self._inclusion(db, number, entry.number + 1), entry)
                db.execute("COMMIT")
            finally:
                if db.in_transaction:
                    db.execute("ROLLBACK")

    def entries(self, kind: str | None = None) -> list[LedgerEntry]:
        """All entries in order, or those of one kind."""
        with self._reading() as db:
            rows = db.execute(f"SELECT {COLUMNS} FROM entries WHERE ?1 IS NULL OR kind = ?1 ORDER BY number", (kind,))
            return [self._entry(row) for row in rows]

    def __len__(self) -> int:
        with self._reading() as db:
            return _size(db)

    def head(self, size: int | None = None) -> LedgerHead:
        """The ledger as it is, or as it was with `size` entries."""
        with self._reading() as db:
            return self._head(db, _size(db) if size is None else size)

    def root(self, size: int | None = None) -> str:
        """Hex of the root over the first `size` entries; over all of them by default."""
        return self.head(size).root

    def inclusion(self, number: int, size: int | None = None) -> InclusionProof:
        """That entry `number` stands in the ledger, or in the ledger as it was with `size` entries."""
        with self._reading() as db:
            return self._inclusion(db, number, _size(db) if size is None else size)

    def consistency(self, old_size: int, size: int | None = None) -> ConsistencyProof:
        """That the ledger only grew since it had `old_size` entries."""
        with self._reading() as db:
            new = self._head(db, _size(db) if size is None else size)
            old = self._head(db, old_size, most=new.size)
            leaves = self._leaves(db, new.size)
        path = merkle.consistency_path(leaves, old_size)
        return ConsistencyProof(old=old, new=new, path=tuple(h.hex() for h in path))

    def check(self, *kept: LedgerHead) -> LedgerHead:
        """Hash every entry again and compare the result with what is stored, and with heads kept elsewhere.

        Args:
            kept: heads of this ledger from earlier, such as those of certificates.

        Raises:
            TamperedError: an entry was changed, moved, added in between or removed, or a kept head is not one of it.
        """
        roots = {0: merkle.EMPTY.hex()}
        with self._reading() as db:
            self._check_file(db)
            peaks: list[bytes] = []
            time = ""
            for number, row in enumerate(db.execute(f"SELECT {COLUMNS} FROM entries ORDER BY number")):
                entry = self._entry(row)
                if entry.number != number:
                    raise self._changed(f"Entry {number} is missing: entry {entry.number} stands in its place.")
                if entry.time < time:
                    raise self._changed(f"Entry {number} is older than the one before it.")
                time, peaks = entry.time, merkle.grown(peaks, number, entry.leaf)
                top = merkle.joined(peaks)
                if row[6] != top or row[7] != b"".join(peaks):
                    raise self._changed(f"The root stored with entry {number} is not that of the entries up to it.")
                roots[number + 1] = top.hex()
        size = len(roots) - 1
        for head in kept:
            if head.ledger != self.id:
                raise TamperedError(f"{self.path} is another ledger than the one of the kept head.",
                                    f"It is {self.id}, the head is of {head.ledger}.", "Name the ledger of that head.")
            if head.size > size:
                raise self._changed(f"It has {size} entries, and a kept head says that it once had {head.size}.")
            if roots.get(head.size) != head.root:
                raise self._changed(f"Its first {head.size} entries are not those of a kept head.")
        return LedgerHead(ledger=self.id, size=size, root=roots[size])

    def _changed(self, why: str) -> TamperedError:
        return TamperedError(f"The ledger {self.path} is not what was written.", why, AGAIN)

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        """One state of the ledger, whatever others append meanwhile."""
        with _connected(self.path) as db:
            db.execute("BEGIN")
            yield db
            db.execute("ROLLBACK")

    def _entry(self, row: Sequence[Any]) -> LedgerEntry:
        """The entry of a row, whose leaf must be the stored one."""
        number, time, behind, kind, body, leaf = row[:6]
        try:
            found = LedgerEntry(ledger=self.id, number=number, time=_checked_time(time), clock_behind_s=behind,
                                kind=kind, body=json.loads(body))
            sound = found.leaf == leaf and canonical(found.body) == body
        except (ValueError, TypeError):  # json's, pydantic's and datetime's errors are ValueErrors
            sound = False
        if not sound:
            raise self._changed(f"Entry {number} was changed: its content does not have the stored hash.")
        return found

    def _insert(self, db: sqlite3.Connection, kind: str, body: dict[str, Any]) -> LedgerEntry:
        last = db.execute(f"SELECT {COLUMNS} FROM entries ORDER BY number DESC LIMIT 1").fetchone()
        time, size, peaks = _now(), 0, list[bytes]()
        behind = 0.0
        if last is not None:
            before = self._entry(last)
            size, peaks = before.number + 1, [last[7][i: i + 32] for i in range(0, len(last[7]), 32)]
            if merkle.joined(peaks) != last[6]:
                raise self._changed(f"The root stored with entry {before.number} is not that of its peaks.")
            behind = max(0.0, round((_instant(before.time) - _instant(time)).total_seconds(), 3))
            time = max(time, before.time)
        entry = LedgerEntry(ledger=self.id, number=size, time=time, clock_behind_s=behind, kind=kind, body=body)
        peaks = merkle.grown(peaks, size, entry.leaf)
        db.execute(f"INSERT INTO entries ({COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                   (size, time, behind, kind, canonical(body), entry.leaf, merkle.joined(peaks), b"".join(peaks)))
        return entry

    def _head(self, db: sqlite3.Connection, size: int, most: int | None = None) -> LedgerHead:
        there = _size(db) if most is None else most
        if not 0 <= size <= there:
            raise UsageError(f"The ledger {self.path} has no state with {size} entries.", f"It has {there} entries.",
                             f"Give a number from 0 to {there}.")
        if size == 0:
            return LedgerHead(ledger=self.id, size=0, root=merkle.EMPTY.hex())
        row = db.execute("SELECT root FROM entries WHERE number = ?", (size - 1,)).fetchone()
        if row is None or not isinstance(row[0], bytes):
            raise self._changed(f"Entry {size - 1} is missing, or has no root.")
        return LedgerHead(ledger=self.id, size=size, root=row[0].hex())

    def _inclusion(self, db: sqlite3.Connection, number: int, size: int) -> InclusionProof:
        head = self._head(db, size)
        if not 0 <= number < size:
            raise UsageError(f"The ledger {self.path} has no entry {number} among its first {size}.",
                             fix="Entries are counted from 0.")
        row = db.execute(f"SELECT {COLUMNS} FROM entries WHERE number = ?", (number,)).fetchone()
        path = merkle.inclusion_path(self._leaves(db, size), number)
        found = InclusionProof(entry=self._entry(row), size=size, root=head.root, path=tuple(h.hex() for h in path))
        if not found.holds:
            raise self._changed(f"The stored hashes of the first {size} entries do not give the stored root.")
        return found

    def _leaves(self, db: sqlite3.Connection, size: int) -> list[bytes]:
        rows = db.execute("SELECT leaf FROM entries WHERE number < ? ORDER BY number", (size,)).fetchall()
        if len(rows) != size or not all(isinstance(leaf, bytes) for (leaf,) in rows):
            raise self._changed(f"{size - len(rows) or 'Some'} of its first {size} entries are missing.")
        return [leaf for (leaf,) in rows]

    def _check_file(self, db: sqlite3.Connection) -> None:
        """The database is sound, and has our tables and triggers and nothing else."""
        said, = db.execute("PRAGMA integrity_check(1)").fetchone()
        if said != "ok":
            raise self._changed(f"The file is damaged: {said}.")
        found = [sql for (sql,) in db.execute("SELECT sql FROM sqlite_master ORDER BY rowid")]
        if found != list(SCHEMA):
            raise self._changed("Its tables or the triggers that protect them are not those it was made with.")


@contextmanager
def _connected(path: Path, named: Path | None = None) -> Iterator[sqlite3.Connection]:
    """A connection to an existing file, with SQLite's errors turned into ours."""
    name = named or path
    try:
        db = sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", uri=True, timeout=WAIT_S, isolation_level=None)
        try:
            db.execute("PRAGMA synchronous = EXTRA")  # an entry survives a loss of power as well
            yield db
        finally:
            db.close()
    except sqlite3.Error as error:
        raise _translated(error, name) from error
    except UnicodeDecodeError as error:  # a damaged name that SQLite wanted to quote
        raise TamperedError(f"{name} is no ledger, or a damaged one.", f"Its text cannot be read: {error}.",
                            AGAIN) from error


def _translated(error: sqlite3.Error, path: Path) -> ExpungeError:
    code = (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return UsageError(f"The ledger {path} is in use.", f"Another process kept it for itself for {WAIT_S:.0f} "
                          "seconds. Nothing was changed.", "Wait until it is done, then repeat the command.")
    if code == sqlite3.SQLITE_FULL:
        return ExpungeError(f"The disk of the ledger {path} is full.", "The ledger is as it was before.",
                            "Free some space, then repeat the command.")
    if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM):
        return UsageError(f"The ledger {path} cannot be opened or written to.", f"SQLite says: {error}.",
                          "Check the right to write to the file and to its folder.")
    if code == sqlite3.SQLITE_IOERR:
        return ExpungeError(f"The disk of the ledger {path} failed.", f"SQLite says: {error}. The ledger is as it was "
                            "before.", "Check the disk and its free space, then repeat the command.")
    if code == sqlite3.SQLITE_CONSTRAINT:
        return UsageError(f"The ledger {path} refused a change.", f"SQLite says: {error}.", "Only append to it.")
    return TamperedError(f"{path} is no ledger, or a damaged one.", f"SQLite says: {error}.", AGAIN)


def _as_json(body: Mapping[str, Any]) -> dict[str, Any]:
    """The body as it will be read again.

    Raises:
        DataError: it has what JSON has not, such as NaN or a date.
    """
    try:
        text = json.dumps(dict(body), allow_nan=False, ensure_ascii=False)
        text.encode()
    except (TypeError, ValueError) as error:  # UnicodeEncodeError is a ValueError
        raise DataError("This cannot be put into a ledger.", f"Its body is no JSON: {error}.",
                        "Give a mapping of texts, finite numbers, lists and mappings.") from None
    found: dict[str, Any] = json.loads(text)
    return found


def _size(db: sqlite3.Connection) -> int:
    """Entries, by the last number: `check` tells whether one is missing in between."""
    last, = db.execute("SELECT max(number) FROM entries").fetchone()
    return 0 if last is None else int(last) + 1


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _instant(time: str) -> datetime:
    return datetime.fromisoformat(time)


def _checked_time(time: str) -> str:
    """The time, if it is one as `_now` writes it; times are compared as texts."""
    if _instant(time).astimezone(UTC).isoformat(timespec="milliseconds") != time:
        raise ValueError(time)
    return time
