"""Streams carried out: what later runs must not undo, and every fault that may come between."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

import expunge
from expunge.console import Reporter
from expunge.errors import ExpungeError, MissingError, UsageError
from expunge.ledger.store import DeletionLedger
from expunge.records.requests import RequestStream
from expunge.records.run import RunRecord
from expunge.records.task import Task
from expunge.requests.carrying import ReboundError
from expunge.requests.telling import render_requests
from expunge.requests.verbs import alone
from expunge.testing import support

pytestmark = pytest.mark.slow
TASK = "authors(forget=3,retain=3,holdout=2,neighbours=0,limit=6)"
METHOD = "npo + retain_nll + adamw(lr=3e-3)"
QUIET = Reporter(quiet=True)


@pytest.fixture(scope="module")
def task() -> Task:
    return expunge.load_task(TASK)


@pytest.fixture(scope="module")
def model(task: Task, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """It knows a little of the rows."""
    place = tmp_path_factory.mktemp("requests-model")
    (place / "config.json").write_text(json.dumps(support.CONFIG))
    expunge.train(place / "config.json", task=task, out=place / "original", epochs=25, lr=5e-3, reporter=QUIET)
    return place / "original"


def begun(place: Path, task: Task, *people: str) -> Path:
    """A ledger with one request for each."""
    for person in people:
        expunge.requests.add(place / "L.db", task=task, entity=person, reporter=QUIET)
    return place / "L.db"


def carry(ledger: Path, model: Path, task: Task, **more: Any) -> RequestStream:
    return expunge.requests.run(ledger, model=model, task=task, **({
        "method": METHOD, "out": ledger.parent / "runs", "steps": 4, "reporter": QUIET} | more))


@pytest.fixture(scope="module")
def two(task: Task, names: list[str], model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a ledger whose two requests are done, and its runs."""
    place = tmp_path_factory.mktemp("two")
    carry(begun(place, task, *names[:2]), model, task)
    return place


@pytest.fixture
def folder(two: Path, tmp_path: Path) -> Path:
    """A copy elsewhere: places are told from the ledger."""
    return Path(shutil.copytree(two, tmp_path / "copy"))


def test_each_run_begins_where_the_last_one_ended(two: Path, task: Task, names: list[str], model: Path) -> None:
    found = expunge.requests.status(two / "L.db")
    assert [r.state for r in found.requests] == ["done", "done"] and [r.run for r in found.requests] == ["001", "002"]
    first, second = (RunRecord.read(two / "runs" / run) for run in ("001", "002"))
    assert found.runs[0].after == second.model_fingerprint == found.runs[1].before
    assert found.runs[0].before == first.model_fingerprint == found.readings[0].model
    assert len(found.readings) == 3, "before, and after each run"
    kept = Task.read(two / "runs" / "002" / "task.json")
    assert {row.entity for row in kept.forget} == {names[1]}
    assert names[0] not in {row.entity for row in (*kept.retain, *kept.background)}
    assert all(set(reading.values["probability"]) == {"r1", "r2"} for reading in found.readings)
    assert found.requests[0].after["probability"] < found.readings[0].values["probability"]["r1"]
    assert found.readings[0].utility == 1 and found.readings[-1].utility is not None
    assert RequestStream.read(two / "runs").runs == found.runs
    assert DeletionLedger.open(two / "L.db").check()
    said = "".join(p.read_text() for p in (two / "runs").glob("*.json")) + (two / "L.db").read_bytes().decode(
        "utf-8", "replace")
    assert not any(row.answer in said or row.entity in said for row in task.forget)
    page = render_requests(found)
    assert page.count("<svg") == 3 and names[0] not in page


def test_what_is_deleted_already_is_not_run_again(folder: Path, task: Task, names: list[str], cli: Any) -> None:
    expunge.requests.add(folder / "L.db", task=task, entity=names[0], reporter=QUIET)
    before = len(list((folder / "runs").iterdir()))
    shown = cli("requests", "run", folder / "L.db", "--task", TASK)
    assert "3 done." in shown.out and "so nothing was run" in shown.err
    assert not (folder / "runs" / "003").exists() and len(list((folder / "runs").iterdir())) == before
    assert expunge.requests.status(folder / "L.db").requests[2].run is None


def test_an_entity_that_is_asked_twice_in_a_batch_is_forgotten_once(task: Task, names: list[str], model: Path,
                                                                    tmp_path: Path) -> None:
    ledger = begun(tmp_path, task, names[0], names[0], names[1])
    found = carry(ledger, model, task, batch=3, steps=1)
    assert [r.run for r in found.requests] == ["001"] * 3
    rows = Task.read(tmp_path / "runs" / "001" / "task.json").forget
    assert len(rows) == len({row.id for row in rows}) == sum(row.entity in names[:2] for row in task.forget)


def test_a_later_fine_tuning_raises_an_alarm(folder: Path, task: Task, model: Path, cli: Any,
                                             names: list[str]) -> None:
    """The original knows everything, as a model would that was trained on the rows again."""
    said = cli("requests", "check", folder / "L.db", "--task", TASK, "--model", model, code=1)
    assert "Deleted rows came back: r1, r2" in said.err
    found = expunge.requests.status(folder / "L.db")
    assert len(found.alarms) == 1 and [r.state for r in found.requests] == ["done", "done"]
    last = folder / "runs" / "002"
    assert "Nothing that was deleted came back" in cli("requests", "check", folder / "L.db", "--task", TASK,
                                                       "--model", last).out
    expunge.requests.add(folder / "L.db", task=task, entity=names[2], reporter=QUIET)
    with pytest.raises(ReboundError, match="knows deleted rows again: r1, r2"):
        carry(folder / "L.db", model, task)
    assert not (folder / "runs" / "003").exists()
    found = carry(folder / "L.db", model, task, again=True, batch=3)
    assert {r.run for r in found.requests} == {"003"} and len(found.alarms) == 3
    rows = Task.read(folder / "runs" / "003" / "task.json").forget
    assert {row.entity for row in rows} == set(names)


def test_a_model_that_is_gone_is_named(folder: Path, task: Task, names: list[str]) -> None:
    expunge.requests.add(folder / "L.db", task=task, entity=names[2], reporter=QUIET)
    kept = folder / "kept"
    (folder / "runs" / "002" / "model").rename(kept)
    with pytest.raises(MissingError, match=r"model of run 002 is missing(.|\n)*its fingerprint is"):
        expunge.requests.run(folder / "L.db", task=task, reporter=QUIET)
    found = expunge.requests.run(folder / "L.db", task=task, model=kept, steps=1, reporter=QUIET)
    assert found.runs[-1].run == "003" and not found.alarms and len(found.readings) == 5
    assert found.runs[-1].method == METHOD and found.runs[-1].options == {"steps": 1}


def test_only_one_process_carries_out(folder: Path, cli: Any, names: list[str]) -> None:
    with alone(folder / "L.db"):
        cli.refused("requests", "run", folder / "L.db", "--task", TASK, says=["Another process carries out"])
        cli("requests", "add", folder / "L.db", "--task", TASK, "--entity", names[2])
    with alone(folder / "L.db"):
        assert len(expunge.requests.status(folder / "L.db").requests) == 3


def test_the_first_run_says_what_it_needs(task: Task, names: list[str], model: Path, tmp_path: Path,
                                          cli: Any) -> None:
    ledger = begun(tmp_path, task, names[0])
    cli.refused("requests", "run", ledger, says=["The first run needs --model, --method, --out"])
    cli.refused("requests", "check", ledger, "--model", model, says=["Nothing of", "was carried out yet"])
    cli.refused("requests", "run", ledger, "--model", model, "--method", "np", "--out", tmp_path / "runs",
                says=["npo"])
    assert not [e for e in DeletionLedger.open(ledger).entries() if e.kind == "started"]


def test_a_run_that_failed_leaves_its_requests_open(task: Task, names: list[str], model: Path, tmp_path: Path,
                                                    monkeypatch: pytest.MonkeyPatch) -> None:
    from expunge.requests import carrying

    ledger = begun(tmp_path, task, names[0])
    real = carrying.forget

    def diverges(*given: Any, dry_run: bool = False, **more: Any) -> Any:
        if dry_run:
            return real(*given, dry_run=True, **more)
        raise ExpungeError("The loss is not finite.")

    monkeypatch.setattr(carrying, "forget", diverges)
    with pytest.raises(ExpungeError, match="not finite"):
        carry(ledger, model, task)
    monkeypatch.undo()
    found = expunge.requests.status(ledger)
    assert found.pending is None and found.requests[0].state == "open" and found.runs[0].failed
    assert carry(ledger, model, task, steps=1).requests[0].run == "002"


def test_a_disk_that_is_full_between_run_and_entry_loses_nothing(task: Task, names: list[str], model: Path,
                                                                tmp_path: Path,
                                                                monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = begun(tmp_path, task, names[0])
    real = DeletionLedger.append

    def full(self: DeletionLedger, kind: str, body: Any) -> Any:
        if kind == "done":
            raise ExpungeError(f"The disk of the ledger {self.path} is full.")
        return real(self, kind, body)

    monkeypatch.setattr(DeletionLedger, "append", full)
    with pytest.raises(ExpungeError, match="is full"):
        carry(ledger, model, task, steps=1)
    monkeypatch.undo()
    record = (tmp_path / "runs" / "001" / "record.json").stat().st_mtime_ns
    assert expunge.requests.status(ledger).requests[0].state == "running"
    with pytest.raises(UsageError, match="Run 001 was interrupted"):
        expunge.requests.run(ledger, task=task, reporter=QUIET)
    with pytest.raises(UsageError, match="another recipe or other options"):
        expunge.requests.run(ledger, task=task, method="ga", resume=True, reporter=QUIET)
    found = expunge.requests.run(ledger, task=task, resume=True, reporter=QUIET)
    assert found.requests[0].state == "done"
    assert (tmp_path / "runs" / "001" / "record.json").stat().st_mtime_ns == record, "it was not run again"


def test_a_killed_stream_goes_on_and_ends_the_same(two: Path, task: Task, names: list[str], model: Path,
                                                   tmp_path: Path) -> None:
    """Killed while the second run trains; the models are those of a stream that was not killed."""
    ledger = begun(tmp_path, task, *names[:2])
    command = [sys.executable, "-m", "expunge", "requests", "run", str(ledger), "--task", TASK, "--model", str(model),
               "--method", METHOD, "--out", str(tmp_path / "runs"), "--steps", "4"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
                               env=os.environ | {"OMP_NUM_THREADS": "1"})
    until = time.monotonic() + 300
    while time.monotonic() < until and process.poll() is None:
        started = [e for e in DeletionLedger.open(ledger).entries("started")]
        if len(started) == 2:
            break
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    said = process.communicate()[1]
    assert process.returncode == -signal.SIGKILL, said
    assert expunge.requests.status(ledger).pending is not None
    expunge.requests.add(ledger, task=task, entity=names[2], reporter=QUIET)  # must not change what 002 keeps
    found = expunge.requests.run(ledger, task=task, resume=True, reporter=QUIET)
    assert [r.state for r in found.requests] == ["done"] * 3
    whole = expunge.requests.status(two / "L.db")
    assert [run.after for run in found.runs[:2]] == [run.after for run in whole.runs]
    assert DeletionLedger.open(ledger).check()


def test_fit_serves_a_batch_as_one_stream(task: Task, names: list[str], model: Path, tmp_path: Path) -> None:
    found = carry(begun(tmp_path, task, *names), model, task, method="fit(lr=1e-3, blocks=1)", batch=3, steps=None,
                  attacks=["prefix(words=1)"])
    assert {r.run for r in found.requests} == {"001"}
    served = RunRecord.read(tmp_path / "runs" / "001").best["requests"]
    assert [line["request"] for line in served] == names
    assert "probability under prefix(words=1)" in found.readings[-1].values


def test_a_locked_ledger_file_is_told(folder: Path, cli: Any, names: list[str],
                                      monkeypatch: pytest.MonkeyPatch) -> None:
    from expunge.ledger import store

    monkeypatch.setattr(store, "WAIT_S", 0.05)
    with closing(sqlite3.connect(folder / "L.db", isolation_level=None)) as db:
        db.execute("BEGIN IMMEDIATE")
        cli.refused("requests", "add", folder / "L.db", "--task", TASK, "--entity", names[2], says=["is in use"])
