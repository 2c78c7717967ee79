"""The ledger: it only grows, tells every change, and survives what interrupts it."""

from __future__ import annotations

import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from expunge.errors import DataError, ExpungeError, MissingError, UsageError
from expunge.ledger import files, store
from expunge.ledger.entries import LedgerHead
from expunge.ledger.merkle import root
from expunge.ledger.store import DeletionLedger, TamperedError


@pytest.fixture(scope="module")
def five(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = DeletionLedger.create(tmp_path_factory.mktemp("ledger") / "deletions.db")
    for number in range(5):
        made.append("request" if number % 2 else "note", {"row": number, "text": "Zoë", "share": 0.1})
    return made.path


@pytest.fixture
def ledger(five: Path, tmp_path: Path) -> DeletionLedger:
    """A copy: every append waits for the disk."""
    return DeletionLedger.open(shutil.copy(five, tmp_path))


def edit(ledger: DeletionLedger, *statements: str) -> None:
    """Change the file behind its back: without the triggers, as somebody who knows SQLite would."""
    with closing(sqlite3.connect(ledger.path)) as db, db:
        db.execute("PRAGMA synchronous = OFF")
        names = db.execute("SELECT name, sql FROM sqlite_master WHERE type = 'trigger' ORDER BY rowid").fetchall()
        for name, _ in names:
            db.execute(f"DROP TRIGGER {name}")
        for statement in statements:
            db.execute(statement)
        for _, sql in names:
            db.execute(sql)


def test_entries_come_back_as_they_went_in(ledger: DeletionLedger) -> None:
    again = DeletionLedger.open(ledger.path)
    found = again.entries()
    assert [e.number for e in found] == list(range(5)) and len(again) == 5
    assert found[3].body == {"row": 3, "text": "Zoë", "share": 0.1} and found[3].clock_behind_s == 0
    assert [e.number for e in again.entries("request")] == [1, 3] and again.entries("other") == []
    assert again.root() == root(e.leaf for e in found).hex() == again.check().root
    assert again.root(2) == root(e.leaf for e in found[:2]).hex()
    assert [path.name for path in ledger.path.parent.iterdir()] == ["deletions.db"]  # one file


def test_proofs_hold_and_only_for_what_they_prove(ledger: DeletionLedger) -> None:
    proof, grown = ledger.inclusion(1, 4), ledger.consistency(2)
    assert proof.holds and proof.head == ledger.head(4) and grown.holds
    other = proof.entry.model_copy(update={"body": {"row": 7}})
    assert not proof.model_copy(update={"entry": other}).holds
    assert not proof.model_copy(update={"root": ledger.root()}).holds
    assert not proof.model_copy(update={"path": ("no hex", *proof.path[1:])}).holds
    assert not grown.model_copy(update={"old": ledger.head(3)}).holds
    strange = grown.old.model_copy(update={"ledger": "another"})
    assert not grown.model_copy(update={"old": strange}).holds


def test_an_empty_ledger(tmp_path: Path) -> None:
    made = DeletionLedger.create(tmp_path / "new" / "l.db")
    assert made and len(made) == 0 and made.entries() == [] and made.check() == made.head()
    with pytest.raises(UsageError, match="no entry 0 among its first 0"):
        made.inclusion(0)
    with pytest.raises(UsageError, match="no state with 1 entries"):
        made.root(1)
    assert made.consistency(0).holds


def test_rows_cannot_be_changed_or_removed(ledger: DeletionLedger) -> None:
    for statement in ("UPDATE entries SET kind = 'x'", "DELETE FROM entries WHERE number = 4", "DELETE FROM about",
                      "UPDATE about SET id = 'x'", "INSERT INTO entries SELECT 9, time, clock_behind_s, kind, body, "
                      "leaf, root, peaks FROM entries LIMIT 1", "INSERT OR REPLACE INTO entries SELECT 2, time, "
                      "clock_behind_s, kind, body, leaf, root, peaks FROM entries LIMIT 1"):
        with closing(sqlite3.connect(ledger.path)) as db, pytest.raises(sqlite3.IntegrityError, match="only appended"):
            db.execute(statement)
    assert ledger.check().size == 5


SWAP = ("UPDATE entries SET number = -1 WHERE number = 2", "UPDATE entries SET number = 2 WHERE number = 3",
        "UPDATE entries SET number = 3 WHERE number = -1")


@pytest.mark.parametrize(("statements", "says"), [
    (["UPDATE entries SET body = replace(body, '0.1', '0.2') WHERE number = 2"], "Entry 2 was changed"),
    (["UPDATE entries SET body = body || ' ' WHERE number = 2"], "Entry 2 was changed"),
    (["UPDATE entries SET body = 'no json' WHERE number = 2"], "Entry 2 was changed"),
    (["UPDATE entries SET kind = 'note' WHERE number = 1"], "Entry 1 was changed"),
    (["UPDATE entries SET time = '2020-01-01T00:00:00.000+00:00' WHERE number = 1"], "Entry 1 was changed"),
    (["UPDATE entries SET clock_behind_s = 3 WHERE number = 1"], "Entry 1 was changed"),
    (["UPDATE entries SET leaf = zeroblob(32) WHERE number = 0"], "Entry 0 was changed"),
    (["UPDATE entries SET root = zeroblob(32) WHERE number = 4"], "root stored with entry 4"),
    (["UPDATE entries SET peaks = zeroblob(64) WHERE number = 4"], "root stored with entry 4"),
    (["UPDATE about SET id = 'another'"], "Entry 0 was changed"),
    (["DELETE FROM entries WHERE number = 2"], "Entry 2 is missing"),
    (["DELETE FROM entries WHERE number = 0"], "Entry 0 is missing"),
    (SWAP, "Entry 2 was changed"),
    (["CREATE TABLE more (x)"], "tables or the triggers"),
    (["UPDATE entries SET body = CAST(X'FF' AS TEXT) WHERE number = 1"], "SQLite says"),
])
def test_every_edit_is_told(ledger: DeletionLedger, statements: list[str], says: str) -> None:
    edit(ledger, *statements)
    with pytest.raises(TamperedError, match=says) as error:
        DeletionLedger.open(ledger.path).check()
    assert error.value.fix and error.value.exit_code == 1


def test_lost_triggers_are_told(ledger: DeletionLedger) -> None:
    with closing(sqlite3.connect(ledger.path)) as db:
        db.execute("DROP TRIGGER no_DELETE_of_entries")
    with pytest.raises(TamperedError, match="triggers that protect them"):
        ledger.check()


def test_a_cut_end_is_told_by_a_kept_head(ledger: DeletionLedger) -> None:
    kept = ledger.head(4), ledger.head()
    edit(ledger, "DELETE FROM entries WHERE number = 4")
    assert ledger.check().size == 4  # nobody can tell by the file alone
    assert ledger.check(kept[0]).size == 4
    with pytest.raises(TamperedError, match="It has 4 entries, and a kept head says that it once had 5"):
        ledger.check(*kept)
    ledger.append("note", {})
    with pytest.raises(TamperedError, match="first 5 entries are not those of a kept head"):
        ledger.check(kept[1])


def test_a_ledger_written_anew_is_told_by_a_kept_head(ledger: DeletionLedger, tmp_path: Path) -> None:
    other = DeletionLedger.create(tmp_path / "other.db")
    for entry in ledger.entries():
        other.append(entry.kind, entry.body)
    with pytest.raises(TamperedError, match="another ledger than the one of the kept head"):
        other.check(ledger.head())
    with pytest.raises(TamperedError, match="Its first 2 entries are not those"):
        ledger.check(LedgerHead(ledger=ledger.id, size=2, root="0" * 64))


def test_an_edited_last_entry_takes_no_further_one(ledger: DeletionLedger) -> None:
    edit(ledger, "UPDATE entries SET body = '{}' WHERE number = 4")
    with pytest.raises(TamperedError, match="Entry 4 was changed"):
        ledger.append("note", {})
    edit(ledger, "UPDATE entries SET root = zeroblob(32) WHERE number = 3")
    with pytest.raises(TamperedError):
        ledger.inclusion(1, 4)


def test_a_clock_that_was_set_back_is_recorded(ledger: DeletionLedger, monkeypatch: pytest.MonkeyPatch) -> None:
    last = ledger.entries()[-1].time
    monkeypatch.setattr(store, "_now", lambda: "2020-01-01T00:00:00.000+00:00")
    entry = ledger.append("note", {})
    assert entry.time == last and entry.clock_behind_s > 86400 * 365
    monkeypatch.undo()
    assert ledger.append("note", {}).clock_behind_s == 0
    assert ledger.check().size == 7
    edit(ledger, "UPDATE entries SET clock_behind_s = 0 WHERE number = 5")
    with pytest.raises(TamperedError, match="Entry 5 was changed"):
        ledger.check()


@pytest.mark.parametrize("body", [{"x": float("nan")}, {"x": Path()}, {"x": "\ud800"}])
def test_what_is_no_json_is_refused(ledger: DeletionLedger, body: dict[str, Any]) -> None:
    with pytest.raises(DataError, match="cannot be put into a ledger"):
        ledger.append("note", body)
    assert len(ledger) == 5


def test_files_that_are_no_ledger(ledger: DeletionLedger, tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="There is no ledger"):
        DeletionLedger.open(tmp_path / "none.db")
    with pytest.raises(UsageError, match="never replaced"):
        DeletionLedger.create(ledger.path)
    (tmp_path / "text.db").write_text("no database at all, whatever its name " * 30, encoding="utf-8")
    with pytest.raises(TamperedError, match="is no ledger, or a damaged one"):
        DeletionLedger.open(tmp_path / "text.db")
    with closing(sqlite3.connect(tmp_path / "other.db")) as db, db:
        db.execute("CREATE TABLE x (y)")
    with pytest.raises(DataError, match="database of something else"):
        DeletionLedger.open(tmp_path / "other.db")
    with closing(sqlite3.connect(ledger.path)) as db, db:
        db.execute("PRAGMA user_version = 9")
    with pytest.raises(DataError, match="of version 9"):
        DeletionLedger.open(ledger.path)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_a_disk_without_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError("no links here")

    monkeypatch.setattr(files.os, "link", refuse)
    assert DeletionLedger.create(tmp_path / "l.db").append("note", {}).number == 0
    with pytest.raises(UsageError, match="already exists"):
        DeletionLedger.create(tmp_path / "l.db")


# What interrupts


@pytest.fixture
def full_disk(ledger: DeletionLedger, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """SQLite's own error: the file may not get another page."""
    connect = sqlite3.connect

    def small(*args: Any, **options: Any) -> sqlite3.Connection:
        db = connect(*args, **options)
        pages, = db.execute("PRAGMA page_count").fetchone()
        db.execute(f"PRAGMA max_page_count = {pages}")
        return db

    monkeypatch.setattr(store.sqlite3, "connect", small)
    yield
    monkeypatch.undo()


def test_a_full_disk_leaves_the_ledger_as_it_was(ledger: DeletionLedger, full_disk: None) -> None:
    before = ledger.path.read_bytes()
    with pytest.raises(ExpungeError, match=r"disk of the ledger .* is full") as error:
        ledger.append("note", {"long": "x" * 20_000})
    assert "as it was before" in error.value.why and ledger.path.read_bytes() == before
    assert ledger.check().size == 5


def test_an_exception_in_the_block_leaves_no_entry(ledger: DeletionLedger) -> None:
    with pytest.raises(KeyError), ledger.appending("note", {}) as pending:
        assert pending.proof.holds and pending.proof.entry.number == 5 and pending.inclusion(1).holds
        raise KeyError
    assert ledger.check().size == 5


def test_a_ledger_in_use(ledger: DeletionLedger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "WAIT_S", 0.05)
    with ledger.appending("note", {}), pytest.raises(UsageError, match="is in use"):
        ledger.append("note", {})
    assert len(ledger) == 6


def test_several_writers_take_turns(ledger: DeletionLedger) -> None:
    def write(name: str) -> None:
        for number in range(10):
            DeletionLedger.open(ledger.path).append(name, {"number": number})

    threads = [Thread(target=write, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ledger.check().size == 25
    for name in "ab":
        assert [e.body["number"] for e in ledger.entries(name)] == list(range(10))


WRITER = """
import sys
from expunge.ledger.store import DeletionLedger
ledger = DeletionLedger.open(sys.argv[1])
print("ready", flush=True)
for number in range(int(sys.argv[2])):
    ledger.append("process", {"writer": sys.argv[3], "number": number})
"""


def writer(ledger: DeletionLedger, count: int, name: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", WRITER, str(ledger.path), str(count), name], stdout=subprocess.PIPE)


@pytest.mark.slow
def test_two_processes_write_one_ledger(ledger: DeletionLedger) -> None:
    both = [writer(ledger, 100, name) for name in "ab"]
    for process in both:
        process.communicate()
    assert [p.returncode for p in both] == [0, 0] and ledger.check().size == 205
    for name in "ab":
        found = [e.body["number"] for e in ledger.entries("process") if e.body["writer"] == name]
        assert found == list(range(100))


@pytest.mark.slow
def test_a_killed_writer_leaves_whole_entries(ledger: DeletionLedger) -> None:
    """Killed at whatever it is doing; then the same in the middle of an entry for certain."""
    for round_ in range(3):
        with writer(ledger, 100_000, str(round_)) as process:
            assert process.stdout is not None and process.stdout.readline() == b"ready\n"
            while len(ledger) < 10 * (round_ + 1):
                pass
            process.send_signal(signal.SIGKILL)
        assert ledger.check().size >= 10 * (round_ + 1)
    size, dying = len(ledger), WRITER.split("print")[0] + (
        "import os, signal\nwith ledger.appending('note', {'x': 'y' * 100_000}):\n    os.kill(os.getpid(), 9)\n")
    assert subprocess.run([sys.executable, "-c", dying, str(ledger.path)]).returncode == -signal.SIGKILL
    assert ledger.check().size == size and ledger.append("note", {}).number == size


def test_a_copy_is_a_ledger(ledger: DeletionLedger, tmp_path: Path) -> None:
    copy = shutil.copy(ledger.path, tmp_path / "copy.db")
    assert DeletionLedger.open(copy).check(ledger.head()) == ledger.head()
