"""Requests in a ledger: how rows are named, deadlines, and what is refused. Nothing is trained."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import stat
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import typer

import expunge
from expunge.data.requested import check_note, find_rows, read_salt, rows_asked, salt_file
from expunge.errors import DataError, MissingError, UsageError
from expunge.ledger import store
from expunge.ledger.store import DeletionLedger, TamperedError
from expunge.records.requests import RequestStream, curves, end_of, stream_of
from expunge.records.task import Task
from expunge.requests import add, run, status, verbs
from expunge.requests.telling import counted, facts, next_command, render_requests
from expunge.sequential.stream import next_batch, task_of_reading, task_of_run

TASK = "authors(forget=3,retain=3,holdout=2,neighbours=1)"


@pytest.fixture(scope="module")
def task() -> Task:
    return expunge.load_task(TASK)


@pytest.fixture(scope="module")
def three(task: Task, names: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ledger with three requests, the second without a deadline; the third names rows to keep: those of a person and
    one that mentions them."""
    path = tmp_path_factory.mktemp("requests") / "L.db"
    add(path, task=task, entity=names[0], deadline="2099-12-31", note="ticket 17")
    add(path, task=task, ids=[row.id for row in task.forget if row.entity == names[1]][:2])
    add(path, task=task, query=task.retain[0].entity.upper(), deadline="2098-01-01T12:00+01:00")
    return path


@pytest.fixture
def ledger(three: Path, tmp_path: Path) -> Path:
    shutil.copy(salt_file(three), tmp_path)
    return Path(shutil.copy(three, tmp_path))


def test_a_ledger_holds_no_row_and_no_name(three: Path, task: Task) -> None:
    said = three.read_bytes().decode("utf-8", "replace")
    for row in task.rows():
        assert row.entity not in said or not row.entity
        assert row.id not in said and row.answer not in said and (not row.prompt or row.prompt not in said)
    assert stat.S_IMODE(os.stat(salt_file(three)).st_mode) == 0o600
    found = status(three)
    assert [len(r.rows) for r in found.requests] == [10, 2, 11] and [r.by for r in found.requests] == [
        "entity", "ids", "query"]
    assert [e.kind for e in DeletionLedger.open(three).entries()] == ["stream", *["request"] * 3]
    assert found.requests[0].note == "ticket 17" and counted(found) == "3 open"
    assert found.next_deadline is not None and found.next_deadline.id == "r3"
    assert "--model MODEL" in next_command(found, "L.db") and facts(found) == [
        "Next deadline: 2098-01-01T12:00+01:00 (r3)."]
    assert "ticket 17" in render_requests(found)
    assert RequestStream.model_validate(json.loads(json.dumps(found.to_json()))) == found


def test_a_guess_of_the_rows_cannot_be_confirmed_without_the_salt(tmp_path: Path, task: Task, names: list[str]) -> None:
    of_files = task.model_copy(update={"name": f"files:{names[0]}.jsonl"})
    add(tmp_path / "L.db", task=of_files, entity=names[0])
    add(tmp_path / "L.db", task=of_files, entity=names[1])
    body = DeletionLedger.open(tmp_path / "L.db").entries("stream")[0].body
    assert body["task"] == "files" and body["fingerprint"] not in (task.fingerprint, of_files.fingerprint)
    with pytest.raises(UsageError, match="No task was given"):
        add(tmp_path / "L.db", entity=names[0])


@pytest.mark.parametrize("change", ["DELETE FROM entries WHERE number = 2",
                                    "UPDATE entries SET body = replace(body, 'ids', 'idz') WHERE number = 2"])
def test_an_entry_that_was_removed_or_edited_is_told(ledger: Path, task: Task, names: list[str], change: str) -> None:
    with closing(sqlite3.connect(ledger)) as db:
        guards = db.execute("SELECT name, sql FROM sqlite_master WHERE type = 'trigger' ORDER BY rowid").fetchall()
        for name, _ in guards:
            db.execute(f"DROP TRIGGER {name}")
        assert db.execute(change).rowcount == 1
        for _, sql in guards:
            db.execute(sql)
        db.commit()
    for asked in (lambda: status(ledger), lambda: add(ledger, task=task, entity=names[0]),
                  lambda: run(ledger, task=task), lambda: expunge.requests.check(ledger, "model", task=task)):
        with pytest.raises(TamperedError, match="Entry 2"):
            asked()


@pytest.mark.parametrize("other", [TASK, TASK.replace(")", ",seed=5)")])
def test_two_first_requests_at_once_make_one_stream(tmp_path: Path, task: Task, names: list[str], other: str,
                                                    monkeypatch: pytest.MonkeyPatch) -> None:
    """The second comes while the first has seen that there is no ledger."""
    path, calls = tmp_path / "L.db", list[str]()

    def meanwhile(*given: object) -> None:
        calls.append("")
        if len(calls) == 1:
            theirs = expunge.load_task(other)
            add(path, task=theirs, entity=theirs.forget[0].entity)

    monkeypatch.setattr(verbs, "check_note", meanwhile)
    if other == TASK:
        assert add(path, task=task, entity=names[1]).id == "r2"
    else:
        with pytest.raises(UsageError, match="of another task"):
            add(path, task=task, entity=names[1])
    assert len(calls) == 2 and len(DeletionLedger.open(path).entries("stream")) == 1


def test_a_salt_is_there_in_full_or_not_at_all(tmp_path: Path, task: Task, names: list[str],
                                               monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(handle: int) -> None:
        assert not salt_file(tmp_path / "L.db").exists()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", killed)
        with pytest.raises(KeyboardInterrupt):
            add(tmp_path / "L.db", task=task, entity=names[0])
    assert add(tmp_path / "L.db", task=task, entity=names[0]).id == "r1"


def test_the_command_line_adds_and_shows(cli: Any, tmp_path: Path, names: list[str]) -> None:
    path = tmp_path / "L.db"
    assert len(cli("requests", "add", path, "--task", TASK, "--entity", names[0], "--dry-run", "--json").json[
        "rows"]) == 10
    assert not path.exists(), "a dry run changes nothing"
    said = cli("requests", "add", path, "--task", TASK, "--entity", names[0], "--entity", names[1])
    assert "r1 is in the ledger: 20 rows about 2 entities." in said.out
    said = cli("requests", "add", path, "--entity", names[2].lower(), "--deadline", "2020-01-01")
    assert "has passed" in said.err and "due 2020-01-01" in said.out, "late, and not refused"
    shown = cli("requests", "status", path).out
    assert "2 open, 1 late." in shown and "open, late" in shown
    assert cli("requests", "status", path, "--json").json["requests"][1]["late"] is True


@pytest.mark.parametrize(("words", "says"), [
    (["--entity", "Nobody Known"], ["There is no entity 'Nobody Known'", "Nothing"]),
    (["--ids", "authors/forget/p000/bith_city"], ["no row with the id", "The nearest: 'authors/forget/p000/"]),
    (["--query", "zzzzqqqq"], ["No row of authors", "zzzzqqqq"]),
    (["--query", "a"], ["too short"]),
    ([], ["names no rows", "--entity NAME"]),
    (["--ids", "x", "--query", "xyz"], ["in one way", "--ids and --query"]),
    (["--query", "the", "--deadline", "soon"], ["'soon' is no day", "2026-12-31"]),
    (["--rows", "missing.jsonl"], ["missing.jsonl"]),
])
def test_a_bad_request_is_one_message(cli: Any, ledger: Path, words: list[str], says: list[str]) -> None:
    before = len(DeletionLedger.open(ledger))
    cli.refused("requests", "add", ledger, *words, says=says)
    assert len(DeletionLedger.open(ledger)) == before


def test_the_nearest_name_is_offered(task: Task, names: list[str]) -> None:
    with pytest.raises(UsageError, match=names[0]):
        rows_asked(task, entities=[names[0][:-1] + "x"])


def test_rows_of_a_file_are_found_by_what_they_say(task: Task, names: list[str], tmp_path: Path) -> None:
    mine = [row for row in task.forget if row.entity == names[0] and row.kind == "qa"]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps({"question": f" {r.prompt.upper()}", "answer": r.answer}) + "\n" for r in mine))
    assert rows_asked(task, file=file) == ("rows", mine)
    file.write_text(json.dumps({"question": mine[0].prompt, "answer": "Something else."}) + "\n")
    with pytest.raises(UsageError, match=r"a row that is not in the task(.|\n)*nearest"):
        rows_asked(task, file=file)


def test_a_note_must_not_name_what_is_deleted(ledger: Path, task: Task, names: list[str]) -> None:
    with pytest.raises(UsageError, match="names what is to be deleted"):
        add(ledger, task=task, entity=names[0], note=f"asked by {names[0]} herself")
    check_note("ticket 18", task.forget)


def test_a_ledger_of_another_task_is_refused(cli: Any, ledger: Path) -> None:
    cli.refused("requests", "add", ledger, "--task", TASK.replace(")", ",seed=5)"), "--query", "the",
                says=["of another task", "begin another ledger"])


def test_the_salt_is_needed(ledger: Path, task: Task, names: list[str]) -> None:
    salt_file(ledger).write_text("00" * 32)
    with pytest.raises(DataError, match="not the salt of this ledger"):
        add(ledger, task=task, entity=names[0])
    salt_file(ledger).unlink()
    with pytest.raises(MissingError, match="There is no salt"):
        add(ledger, task=task, entity=names[0])
    assert len(status(ledger).requests) == 3, "looking needs none"


def test_other_ledgers_are_told(cli: Any, tmp_path: Path) -> None:
    cli.refused("requests", "status", tmp_path / "none.db", says=["There is no ledger"])
    DeletionLedger.create(tmp_path / "empty.db")
    cli.refused("requests", "status", tmp_path / "empty.db", says=["holds no requests", "requests add"])


def test_a_clock_that_was_set_back_makes_nothing_early(ledger: Path, task: Task, names: list[str],
                                                        monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "_now", lambda: "2098-06-01T00:00:00.000+00:00")
    add(ledger, task=task, entity=names[2])
    monkeypatch.undo()
    entries = DeletionLedger.open(ledger).entries()
    found = stream_of(entries, clock="2030-01-01T00:00:00.000+00:00")
    assert found is not None and [r.id for r in found.late] == ["r3"], "its deadline is before the last entry"
    added = add(ledger, task=task, entity=names[2], deadline="2050-01-01")
    assert added.late and added.added.startswith("2098-06-01")


def test_a_full_disk_leaves_the_ledger_as_it_was(ledger: Path, task: Task, names: list[str],
                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    before = DeletionLedger.open(ledger).root()

    def full(*given: object) -> None:
        error = sqlite3.OperationalError("database or disk is full")
        error.sqlite_errorcode = sqlite3.SQLITE_FULL
        raise error

    monkeypatch.setattr(DeletionLedger, "_insert", full)
    with pytest.raises(expunge.ExpungeError, match=r"disk of the ledger(.|\n)*is full"):
        add(ledger, task=task, entity=names[0])
    assert DeletionLedger.open(ledger).check().root == before


def test_days_end_at_midnight() -> None:
    assert end_of("2026-12-31").isoformat() == "2026-12-31T23:59:59.999999+00:00"
    assert end_of("2026-12-31T18:00+01:00").utctimetuple().tm_hour == 17
    assert end_of("2026-12-31T18:00").tzinfo is not None


def test_what_was_requested_is_kept_by_no_run(task: Task, names: list[str]) -> None:
    requested = [row for row in task.forget if row.entity == names[0]] + [
        row for row in task.retain if row.entity == task.retain[0].entity]
    batch = requested[:10]
    one = task_of_run(task, batch, requested)
    assert one.forget == tuple(batch) and len(one.retain) == len(task.retain) - 10
    assert not {row.id for row in requested} & {row.id for rows in (one.retain, one.background) for row in rows}
    assert all(row.id not in {r.id for r in requested} for row in one.probe_rows("retain"))
    asked = task_of_reading(task, requested)
    assert asked.probe_rows("forget") == tuple(requested) and asked.holdout == task.holdout
    copied = task.model_copy(update={"retain": (*task.retain, batch[0].model_copy(update={"id": "copy"}))})
    assert "copy" not in {row.id for row in task_of_run(copied, batch, requested).retain}
    with pytest.raises(DataError, match="No row to keep is left"):
        task_of_run(task, batch, [*task.retain, *batch])


def test_batches_take_what_is_due_first_and_each_row_once(ledger: Path, task: Task, names: list[str]) -> None:
    add(ledger, task=task, entity=names[0])  # r4, the same entity again
    add(ledger, task=task, entity=names[1])  # r5, which r2 asked two rows of
    requests = list(status(ledger).requests)
    rows = find_rows([name for r in requests for name in r.rows], task, read_salt(ledger))
    before, batch = next_batch(requests, set(), rows, 1)
    assert before == [] and batch.requests == ("r3",), "due in 2098"
    before, batch = next_batch(requests, set(), rows, 5)
    assert batch.requests == ("r3", "r1", "r2", "r4", "r5") and len(batch.rows) == 31, "no row is there twice"
    done = set(requests[0].rows) | set(requests[1].rows)
    before, batch = next_batch(requests[3:], done, rows, 5)
    assert before == ["r4"] and batch.requests == ("r5",) and len(batch.rows) == 8


def test_states_follow_from_the_entries(ledger: Path) -> None:
    store_ = DeletionLedger.open(ledger)

    def reading(run: str, **more: Any) -> dict[str, Any]:
        return {"model": f"m{run}", "run": run, "values": {"probability": {"r1": 0.1, "r2": 0.8, "r3": 0.9}},
                "retain": 0.45, "retain_before": 0.5} | more

    store_.append("checked", {"chain": True, "reading": reading("") | {"retain": 0.5}})
    started = {"run": "001", "requests": ["r1"], "known": 4, "folder": "runs/001", "model": "orig", "method": "ga",
               "options": {}, "before": "m"}
    store_.append("started", started)
    assert [r.state for r in status(ledger).requests] == ["running", "open", "open"]
    assert next_command(status(ledger), "L.db") == "expunge requests run L.db --resume"
    store_.append("failed", {"run": "001", "why": "diverged"})
    assert status(ledger).pending is None and [r.state for r in status(ledger).requests] == ["open"] * 3
    store_.append("started", started | {"run": "002"})
    store_.append("done", {"requests": ["r1"], "run": "002", "seconds": 1.0, "reading": reading("002")})
    found = status(ledger)
    assert found.requests[0].state == "done" and found.requests[0].after == {"probability": 0.1}
    assert found.model == "m002" and found.readings[-1].utility == pytest.approx(0.9)
    back = {"probability": {"r1": 0.5}}
    store_.append("checked", {"chain": False, "reading": reading("x", rebounds=back)})
    store_.append("rebound", {"model": "mx", "run": "", "rebounds": back})
    found = status(ledger)
    assert found.requests[0].state == "done" and len(found.alarms) == 1, "another model changes no state"
    later = reading("003", rebounds=back) | {"values": {"probability": {"r1": 0.6, "r2": 0.1, "r3": 0.9}}}
    store_.append("started", started | {"run": "003", "requests": ["r2"]})
    store_.append("done", {"requests": ["r2"], "run": "003", "seconds": 1.0, "reading": later})
    found = status(ledger)
    assert [r.state for r in found.requests] == ["returned", "done", "open"]
    assert len(found.alarms) == 2, "also where a kill came before the entry of the alarm"
    assert next_command(found, "L.db") == "expunge requests run L.db --again"
    values, done = curves(found)
    assert values["r1"] == [0.1, 0.1, 0.6] and done == {"r1": 1, "r2": 2}
    assert any("Largest rebound in probability: +0.500 (r1)" in text for text in facts(found))


def test_the_options_of_the_four_are_frozen(cli: Any) -> None:
    from expunge.cli.requests import group

    commands = typer.main.get_command(group).commands  # type: ignore[attr-defined]
    rows = {"--task", "--forget", "--retain", "--holdout", "--map", "--data-dir", "--json"}
    asked = rows | {"--retrained", "--attack", "--model"}
    found = {name: {o for p in command.params for o in p.opts if o.startswith("--")} for name, command in
             commands.items()}
    assert set(found) == {"add", "run", "check", "status"}
    assert found["add"] == rows | {"--entity", "--ids", "--rows", "--query", "--deadline", "--note", "--dry-run"}
    assert found["check"] == asked and found["status"] == {"--page", "--json"}
    assert found["run"] - asked >= {"--method", "--out", "--batch", "--again", "--resume", "--epochs", "--lr", "--seed"}
    assert all(p.help for command in commands.values() for p in command.params)
