"""A grid: which cells it has, that each is an ordinary run, and that going on repeats nothing."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import expunge
from expunge import grids as module
from expunge.errors import InterruptedRun, NonFiniteError, PreflightError, UsageError
from expunge.grids import folder_name, rates_of, recipes_of, seeds_of, takes_rate, with_cells
from expunge.records.grid import Grid, GridCell
from expunge.records.run import RunRecord

from .conftest import METHODS, OPTIONS, RATES

Small = tuple[Path, Grid]


def test_lists_are_read_as_people_write_them() -> None:
    assert recipes_of("ga, npo(beta=0.1, weight=2) + retain_nll") == ("ga", "npo(beta=0.1, weight=2) + retain_nll")
    assert recipes_of(["ga", "npo,ga"]) == ("ga", "npo")
    assert rates_of(["1e-4", "3e-4,1e-4"]) == rates_of([1e-4, 3e-4]) == (1e-4, 3e-4)
    assert rates_of(()) == (None,) and rates_of(1e-4) == rates_of("1e-4") == (1e-4,)
    assert seeds_of(3) == seeds_of("3") == (0, 1, 2)
    assert seeds_of("5,7,5") == seeds_of([5, 7]) == (5, 7)
    assert seeds_of([2]) == (2,)
    for wrong in (lambda: recipes_of([]), lambda: rates_of("fast"), lambda: rates_of("-1"), lambda: seeds_of("some"),
                  lambda: seeds_of(0), lambda: seeds_of([])):
        with pytest.raises(UsageError):
            wrong()


def test_rates_are_for_recipes_that_have_none_of_their_own() -> None:
    assert takes_rate("npo + retain_nll") and takes_rate("ssd >> npo")
    assert not takes_rate("ssd") and not takes_rate("npo + adamw(lr=1e-4)") and not takes_rate("uld")


def test_folders_are_readable_and_never_shared() -> None:
    assert folder_name("npo(beta=0.1) + retain_kl", 1e-4, 2) == "npo-beta-0.1-retain_kl_lr0.0001_seed2"
    assert folder_name("ssd", None, 0) == "ssd_seed0"
    blank = Grid(model="m", model_fingerprint="f", retrained=(), task="t", task_fingerprint="t", environment={},
                 settings=expunge.RunSettings(), audit=expunge.AuditSettings())
    both = with_cells(blank, [("npo(beta=1)", None, 0), ("npo(beta= 1)", None, 0)])
    assert [c.folder for c in both.cells] == ["npo-beta-1_seed0", "npo-beta-1_seed0_2"]
    assert with_cells(both, [("npo(beta= 1)", None, 0)]) == both, "a grid that grows keeps its folders"


def test_every_cell_is_a_run_with_its_audit(small: Small, model: Path) -> None:
    out, made = small
    assert [c.key for c in made.cells] == [(m, r, s) for s in (0, 1) for m in METHODS for r in RATES]
    assert all(c.status == "finished" and c.verdict and c.steps == 1 for c in made.cells)
    for cell in made.cells:
        record, audit = RunRecord.read(out / cell.folder), expunge.Audit.read(out / cell.folder)
        assert (record.recipe, record.seed, record.unfinished) == (cell.method, cell.seed, "")
        assert record.recipe_full["0"]["adamw"]["lr"] == cell.lr and (out / cell.folder / "model").is_dir()
        assert cell.scores == {s.name: s.value for s in audit.scores if s.attack is None}
        assert audit.original and audit.original.path == str(model) and len(audit.retrained) == 1
    assert Grid.read(out) == made
    with (out / "grid.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert len(table) == 8 and float(table[3]["forget.probability"]) == made.cells[3].scores["forget.probability"]
    assert made.frame()["folder"].tolist() == [c.folder for c in made.cells]


def test_going_on_runs_only_what_is_missing(small: Small, model: Path, task: expunge.Task, tmp_path: Path,
                                            monkeypatch: pytest.MonkeyPatch) -> None:
    """A grid that was killed, one that grows, and one whose cell failed."""
    out = tmp_path / "again"
    shutil.copytree(small[0], out)
    cells = list(small[1].cells)
    lost = cells[2]
    shutil.rmtree(out / lost.folder)
    small[1].with_cell(lost.model_copy(update={"status": "waiting", "scores": {}})).write(out / "grid.json")
    ran: list[Any] = []
    real = module.carry_out
    monkeypatch.setattr(module, "carry_out", lambda common, cell: ran.append(cell.key) or real(common, cell))
    words: dict[str, Any] = {"task": task, "retrained": small[1].retrained, "out": out}
    made = expunge.grid(model, resume=True, **words, **OPTIONS)
    assert ran == [lost.key]
    assert made.cells[2].scores == lost.scores, "the same cell gives the same figures"
    ran.clear()
    expunge.grid(model, resume=True, **words, **OPTIONS)
    assert not ran
    ran.clear()
    grown = expunge.grid(model, resume=True, **words, **(OPTIONS | {"seeds": [0, 4], "methods": "ga"}))
    assert ran == [("ga", rate, 4) for rate in RATES] and len(grown.cells) == 10


def test_other_settings_are_refused(small: Small, model: Path, task: expunge.Task, tmp_path: Path) -> None:
    words: dict[str, Any] = {"task": task, "retrained": small[1].retrained, "out": small[0], "resume": True}
    for change, said in (({"steps": 2}, "settings.steps was 1 and is now 2."), ({"retrained": ()}, "retrained"),
                         ({"accumulate": 2}, "accumulate"), ({"suite": "forget.probability"}, "suite")):
        with pytest.raises(UsageError, match="made with other options or inputs") as refused:
            expunge.grid(model, **(words | OPTIONS | change))
        assert said in refused.value.why
    with pytest.raises(UsageError, match="already exists"):
        expunge.grid(model, **(words | OPTIONS | {"resume": False}))
    with pytest.raises(UsageError, match="lists of learning rates and seeds"):
        expunge.grid(model, **(words | OPTIONS | {"seed": 3}))


def test_what_cannot_work_is_refused_before_anything_runs(model: Path, task: expunge.Task, tmp_path: Path) -> None:
    with pytest.raises(PreflightError) as refused:
        expunge.grid(model, methods=["ga", "npo + lora(targets=nose)", "npo + layers(index=1, modules=nose)"],
                     task=task, out=tmp_path / "g", lr=[1e-3, 3e-3], steps=1)
    assert "npo + lora(targets=nose)" in str(refused.value) and "npo + layers(" in str(refused.value)
    assert "has 2 problems" in refused.value.what and not (tmp_path / "g").exists()
    with pytest.raises(UsageError, match="no source of forgetting"):
        expunge.grid(model, methods="ga,saf", task=task, out=tmp_path / "g")


def test_the_built_in_world_is_checked_before_it_is_trained(tmp_path: Path, cli: Any) -> None:
    words: dict[str, Any] = {"task": "authors(forget=2, retain=4, holdout=2, neighbours=1)", "out": tmp_path / "g",
                             "seeds": 1}
    for dry_run in (True, False):
        with pytest.raises(PreflightError, match="npo \\+ layers"):
            expunge.grid(methods=["ga", "npo + layers(index=9)"], dry_run=dry_run, **words)
    assert len(expunge.grid(methods=["ga", "npo + layers(index=3)"], dry_run=True, **words).cells) == 2


def test_going_on_needs_a_grid(small: Small, model: Path, task: expunge.Task) -> None:
    cell = small[0] / small[1].cells[0].folder
    before = sorted(cell.rglob("*"))
    with pytest.raises(UsageError, match="holds no grid to go on with"):
        expunge.grid(model, task=task, out=cell, resume=True, **OPTIONS)
    assert sorted(cell.rglob("*")) == before


@pytest.mark.parametrize(("failed", "code"), [(0, 0), (1, 1), (8, 1)])
def test_the_exit_code_tells_of_failed_cells(small: Small, model: Path, rows: Any, tmp_path: Path, cli: Any,
                                             monkeypatch: pytest.MonkeyPatch, failed: int, code: int) -> None:
    cells = [c.model_copy(update={"status": "failed", "failed": "no"}) if i < failed else c
             for i, c in enumerate(small[1].cells)]
    monkeypatch.setattr(module, "grid", lambda *args, **options: small[1].model_copy(update={"cells": tuple(cells)}))
    said = cli("grid", model, *rows.words, "--methods", "ga", "--out", tmp_path / "g", code=code)
    told = [f"{n} {status}" for n, status in ((8 - failed, "finished"), (failed, "failed")) if n]
    assert all(words in said.out + said.err for words in told), said


def test_a_cell_that_fails_does_not_end_the_others(model: Path, task: expunge.Task, tmp_path: Path,
                                                   monkeypatch: pytest.MonkeyPatch, cli: Any) -> None:
    real = module.forget_and_audit

    def broken(model: Any, task: Any, method: str, *args: Any, **options: Any) -> Any:
        if method == "ga":
            raise NonFiniteError("Step 1: the term ga is not finite.")
        return real(model, task, method, *args, **options)

    monkeypatch.setattr(module, "forget_and_audit", broken)
    words: dict[str, Any] = {"methods": "ga,npo", "task": task, "out": tmp_path / "g", "lr": 1e-3, "steps": 1,
                             "seeds": 1, "suite": "forget.probability"}
    made = expunge.grid(model, **words)
    assert [(c.status, c.failed) for c in made.cells] == [("failed", "Step 1: the term ga is not finite."),
                                                          ("finished", "")]
    monkeypatch.setattr(module, "forget_and_audit", real)
    again = expunge.grid(model, resume=True, **words)
    assert [c.status for c in again.cells] == ["finished"] * 2 and not again.cells[0].failed


def test_a_folder_without_a_record_begins_anew(model: Path, task: expunge.Task, tmp_path: Path) -> None:
    """Killed before the run had begun."""
    out = tmp_path / "g"
    words: dict[str, Any] = {"methods": "ga", "task": task, "out": out, "steps": 1, "seeds": 1,
                             "suite": "forget.probability"}
    blank = expunge.grid(model, dry_run=True, **words)
    assert not out.exists() and blank.cells[0].status == "waiting"
    place = out / blank.cells[0].folder
    place.mkdir(parents=True)
    (place / "task.json").write_text("{", encoding="utf-8")
    fingerprint = expunge.load_subject(model).fingerprint
    blank.model_copy(update={"model_fingerprint": fingerprint}).write(out / "grid.json")
    assert expunge.grid(model, resume=True, **words).cells[0].status == "finished"


def test_from_the_command_line(small: Small, model: Path, rows: Any, tmp_path: Path, cli: Any) -> None:
    words = ("grid", model, *rows.words, "--methods", "ga", "--methods", "ssd,npo + retain_nll", "--lr", "1e-3",
             "--lr", "3e-3", "--seeds", "0,1", "--steps", 1, "--suite", "forget.probability", "--out", tmp_path / "g")
    plan = cli(*words, "--dry-run").out
    assert "10 cells: 10 waiting." in plan and not (tmp_path / "g").exists()
    data = json.loads(cli(*words, "--dry-run", "--json").out)
    assert len(data["cells"]) == 10 and [c["lr"] for c in data["cells"] if c["method"] == "ssd"] == [None, None]
    cli.refused(*words[:2], "--task", "authors", "--out", small[0], "--methods", "ga", says=("already exists",))
    cli.refused(*words[:-1], tmp_path / "x", "--lr", "quick", says=("a learning rate is a number",))


def test_a_grid_of_ones_own_rows_needs_a_model(rows: Any, tmp_path: Path, cli: Any) -> None:
    cli.refused("grid", *rows.words, "--methods", "ga", "--out", tmp_path / "g", says=("needs its model",))


def test_an_interruption_keeps_what_is_finished(model: Path, task: expunge.Task, tmp_path: Path, cli: Any,
                                                monkeypatch: pytest.MonkeyPatch) -> None:
    real, count = module.forget_and_audit, iter(range(9))

    def stopped(*args: Any, **options: Any) -> Any:
        if next(count) == 1:
            raise InterruptedRun("Interrupted after step 0 of 1.")
        return real(*args, **options)

    monkeypatch.setattr(module, "forget_and_audit", stopped)
    out = tmp_path / "g"
    with pytest.raises(InterruptedRun, match="2 cells: 1 finished, 1 waiting") as told:
        expunge.grid(model, methods="ga,npo", task=task, out=out, steps=1, seeds=1, suite="forget.probability")
    assert told.value.fix == f"Go on with: expunge grid --out {out} --resume"
    assert "npo (waiting): seed 0" in str(told.value)
    assert [c.status for c in Grid.read(out).cells] == ["finished", "waiting"]
    monkeypatch.setattr(module, "forget_and_audit", real)
    listed = next(one for one in cli("ls", out, "--json").json if one["kind"] == "grid")
    assert listed["status"] == "2 cells: 1 finished, 1 waiting; go on with --resume"
    cli.refused(*listed["next"].split()[1:], "--seeds", 4, says=("takes no other option",))
    assert "2 cells: 2 finished." in cli(*listed["next"].split()[1:]).out
    assert "expunge compare" in cli("ls", out).out


@pytest.mark.parametrize(("broken", "says"), [
    ("rows", "does not hold the rows"), ("grid", "holds no grid to go on with"), ("model", "has changed")])
def test_going_on_with_nothing_but_the_folder_is_refused_where_something_is_missing(
        small: Small, tmp_path: Path, cli: Any, broken: str, says: str) -> None:
    out = tmp_path / "g"
    out.mkdir()
    if broken != "grid":
        small[1].model_copy(update={"model_fingerprint": "other"}).write(out / "grid.json")
    if broken == "model":
        shutil.copy(small[0] / "task.json", out)
    cli.refused("grid", "--out", out, "--resume", says=(says,))


def test_a_signal_to_end_tells_what_is_finished(model: Path, rows: Any, tmp_path: Path, cli: Any,
                                                monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGTERM between two trainings, and in one."""
    real, count = module.forget_and_audit, iter(range(9))

    def ended(*args: Any, **options: Any) -> Any:
        if next(count) == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(*args, **options)

    monkeypatch.setattr(module, "forget_and_audit", ended)
    out = tmp_path / "g"
    said = cli.refused("grid", model, *rows.words, "--methods", "ga,npo", "--seeds", 1, "--steps", 1, "--suite",
                       "forget.probability", "--out", out, code=4)
    assert "2 cells: 1 finished, 1 waiting." in said and f"expunge grid --out {out} --resume" in said


def children(pid: int) -> list[int]:
    """Processes whose parent this is."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it ended meanwhile
            if int(path.read_text().rpartition(")")[2].split()[1]) == pid:
                found.append(int(path.parent.name))
    return found


def runs(pid: int) -> bool:
    """Whether a process is there and has not ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")
def test_processes_give_the_same_and_a_killed_grid_goes_on(small: Small, model: Path, rows: Any,
                                                           tmp_path: Path) -> None:
    """Two processes; the whole group is killed once the first cells are there, and no process stays behind."""
    out = tmp_path / "g"
    words = [sys.executable, "-m", "expunge", "grid", model, *rows.words, "--retrained", model, "--methods",
             ",".join(METHODS), "--lr", "1e-3,3e-3", "--seeds", "2", "--steps", "1", "--suite", OPTIONS["suite"],
             "--jobs", "2", "--out", out]
    command = [str(word) for word in words]
    first = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline and first.poll() is None:
        if (out / "grid.json").exists() and any(c.status == "finished" for c in Grid.read(out).cells):
            break
        time.sleep(0.2)
    workers = children(first.pid)
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    assert workers
    while any(runs(pid) for pid in workers):
        assert time.monotonic() < deadline, "a process of the killed grid is still at work"
        time.sleep(0.5)
    before = [c for c in Grid.read(out).cells if c.status == "finished"]
    assert before
    subprocess.run([*command, "--resume"], check=True, stdout=subprocess.DEVNULL, timeout=300)
    after = Grid.read(out)
    assert [c for c in after.cells if c.key in {b.key for b in before}] == before, "they were not run again"
    for cell, one in zip(after.cells, small[1].cells, strict=True):
        assert cell.key == one.key and cell.scores == pytest.approx(one.scores, rel=1e-4)


def test_a_cell_knows_its_row() -> None:
    cell = GridCell(method="ga", lr=1e-3, seed=0, folder="f", scores={"forget.probability": 0.5})
    assert cell.row()["forget.probability"] == 0.5 and "scores" not in cell.row() and cell.title == "ga lr=0.001 seed=0"
