"""A benchmark: equal trials, runs with their audits, a table of scores that are computed again, and what it refuses."""

from __future__ import annotations

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
from expunge.benching import candidates, suite_of
from expunge.benchmarks.tofu import VARIANTS
from expunge.errors import DataError, MissingError, UsageError
from expunge.models.pairs import find_pair
from expunge.records.bench import Bench, BenchTable
from expunge.records.grid import Grid
from expunge.report.bench import html, markdown, penalty
from expunge.submissions import published_rows, unseen_note

SUITE = "leak_share,forget.probability,retain.probability,prefix(words=3)"
METHODS = "npo + retain_nll, ga"


@pytest.fixture(scope="session")
def pair(world: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pairs") / "small"
    shutil.copytree(world.original, folder / "original")
    shutil.copytree(world.retrained, folder / "retrained")
    return folder


@pytest.fixture(scope="session")
def done(world: Any, pair: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, BenchTable]:
    """Two methods, two trials each, two seeds; nobody writes to it."""
    out = tmp_path_factory.mktemp("bench") / "done"
    return out, expunge.bench(world.task, out=out, methods=METHODS, model=pair, seeds=2, trials=2, steps=2, jobs=1,
                              asked=SUITE)


def test_trials_spread_over_the_space() -> None:
    rates = [rate for _, rate in candidates("npo + retain_nll", 4, 3, ())]
    assert rates == pytest.approx([2.59e-5, 1.73e-4, 1.16e-3], rel=0.01) and len({*rates}) == 3
    assert candidates("npo + retain_nll", 4, 1, ()) == [("npo + retain_nll", None)]
    assert [rate for _, rate in candidates("ga", 4, 4, (1e-4, 3e-4))] == [1e-4, 3e-4]
    drawn = candidates("ssd", 4, 4, ())
    assert drawn[0] == ("ssd", None) and len({recipe for recipe, _ in drawn}) == 4, "the same number for each"
    assert drawn == candidates("ssd", 4, 4, ())
    assert candidates("ssd(alpha=2, lambda_=0.5)", 4, 4, ()) == [("ssd(alpha=2, lambda_=0.5)", None)]


def test_utility_has_its_price() -> None:
    assert penalty(0.1, 0.99) == 0.1 and penalty(0.1, 0.85) == pytest.approx(0.5)
    assert penalty(None, 1.0) == penalty(0.0, None) == float("inf")


def test_a_card_says_what_its_benchmark_asks() -> None:
    from expunge.audit.suite import parse_suite

    assert suite_of("authors") == "bench"
    tofu = parse_suite(suite_of("tofu:forget01"))
    assert {*VARIANTS, "leak_share"} <= {*tofu.metrics} and tofu.primary
    muse = parse_suite(suite_of("muse:news"))
    assert "privleak(group=privleak)" in muse.metrics and "relearn(steps=16)" in muse.primary


@pytest.mark.slow
def test_budgets_are_equal_and_every_number_has_its_run(done: tuple[Path, BenchTable]) -> None:
    out, table = done
    plan, runs = Bench.read(out), Grid.read(out / "runs")
    assert [(c.method, c.tried) for c in plan.chosen] == [("npo + retain_nll", 2), ("ga", 2)]
    assert {(cell.method, cell.seed) for cell in runs.cells} == {(c.recipe, s) for c in plan.chosen for s in (0, 1)}
    methods = [row for row in table.rows if row.kind == "method"]
    assert [row.kind for row in table.rows[:2]] == ["reference", "reference"] and len(methods) == 2
    assert {row.trials for row in methods} == {2} and {row.rows for row in methods} == {16.0}
    assert not table.cautions and table.rescored == 4
    for row in methods:
        mine = [cell for cell in runs.cells if cell.method == row.about.partition(" lr=")[0]]
        known = [cell.scores["forget.probability"] for cell in mine]
        cell = row.scores["forget.probability"]
        assert cell.value == pytest.approx(sum(known) / 2) and cell.low <= cell.value <= cell.high  # type: ignore
        assert set(row.attacks) == {"prefix(words=3)"} and set(row.leaks) == {"", "prefix(words=3)"}
    assert BenchTable.read(out) == table
    assert not list((out / "trials").glob("*/model")), "trials keep no weights"


@pytest.mark.slow
def test_both_tables_hold_every_row(done: tuple[Path, BenchTable]) -> None:
    out, table = done
    page, text = (out / "bench.html").read_text(), (out / "bench.md").read_text()
    assert page == html(table) and text == markdown(table)
    assert all(row.title in page and row.title in text for row in table.rows)
    assert "http" not in page.replace("http-equiv", "") and "<script" not in page
    shown = table.model_copy(update={"columns": VARIANTS, "rows": (*table.rows, *published_rows("tofu:forget01"))})
    assert "published" in html(shown) and "NPO (published)" in markdown(shown)


@pytest.mark.slow
def test_run_folders_are_submissions(done: tuple[Path, BenchTable], world: Any, tmp_path: Path) -> None:
    out, table = done
    again = expunge.bench(world.task, out=tmp_path / "whole", submissions=[out])
    assert again.model_copy(update={"rows": ()}) == table.model_copy(update={"rows": ()}) and again.rows == table.rows
    one = Grid.read(out / "runs").cells[0]
    alone = expunge.bench(world.task, out=tmp_path / "one", submissions=[out / "runs" / one.folder])
    row = next(r for r in alone.rows if r.kind == "method")
    assert row.trials is None and row.seeds == 1, "a folder does not tell how many trials led to it"


@pytest.mark.slow
def test_typed_scores_are_refused(done: tuple[Path, BenchTable], world: Any, tmp_path: Path) -> None:
    run = Path(shutil.copytree(done[0] / "runs" / Grid.read(done[0] / "runs").cells[0].folder, tmp_path / "run"))
    stored = json.loads((run / "audit.json").read_text())
    for change in ({"value": 0.0}, {"interval": [0.0, 0.1]}):
        scores = [s | change if s["name"] == "forget.probability" and not s["attack"] else s for s in stored["scores"]]
        (run / "audit.json").write_text(json.dumps(stored | {"scores": scores}))
        with pytest.raises(DataError, match="not those of its observations") as refused:
            expunge.bench(world.task, out=tmp_path / "table", submissions=[run])
        assert "forget.probability is stored as" in str(refused.value) and not (tmp_path / "table").exists()
    (run / "audit.json").write_text(json.dumps(stored | {"subject": stored["subject"] | {"fingerprint": "another"}}))
    with pytest.raises(DataError, match="not those of the model"):
        expunge.bench(world.task, out=tmp_path / "table", submissions=[run])
    other = [stored["retrained"][0] | {"fingerprint": "another"}]  # a control that is easier to be near to
    (run / "audit.json").write_text(json.dumps(stored | {"retrained": other}))
    with pytest.raises(DataError, match=r"not those of the model that its audit names: retrained\."):
        expunge.bench(world.task, out=tmp_path / "table", submissions=[run])
    (run / "audit.json").write_text(json.dumps(stored | {"original": stored["original"] | {"fingerprint": "another"}}))
    with pytest.raises(DataError, match="did not start from the original of its audit"):
        expunge.bench(world.task, out=tmp_path / "table", submissions=[run])
    (run / "audit.json").write_text(json.dumps(stored))
    with pytest.raises(DataError, match="on other rows"):
        expunge.bench("authors(forget=1,retain=3,holdout=1,neighbours=0)", out=tmp_path / "table", submissions=[run])
    (run / "audit.json").unlink()
    with pytest.raises(DataError, match="not a run with its audit"):
        expunge.bench(world.task, out=tmp_path / "table", submissions=[run])


@pytest.mark.slow
def test_a_killed_benchmark_goes_on(done: tuple[Path, BenchTable], world: Any, pair: Path, tmp_path: Path) -> None:
    """SIGKILL once the first trial is there; the same table comes out, and finished trials are not run again."""
    out = tmp_path / "killed"
    command = [sys.executable, "-m", "expunge", "bench", world.task, "--model", str(pair), "--methods", METHODS,
               "--seeds", "2", "--trials", "2", "--steps", "2", "--jobs", "1", "--suite", SUITE, "--out", str(out)]
    first = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    trials = out / "trials"
    while not (trials / Grid.FILE).is_file() or all(c.status == "waiting" for c in Grid.read(trials).cells):
        assert first.poll() is None and not time.sleep(0.05)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    before = trials / next(c.folder for c in Grid.read(trials).cells if c.status == "finished") / "audit.json"
    written = before.stat().st_mtime_ns
    subprocess.run([*command, "--resume"], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    found = BenchTable.read(out)
    assert before.stat().st_mtime_ns == written
    drop = {"train_s"}  # time is never the same
    assert [r.model_dump(exclude=drop) for r in found.rows] == [r.model_dump(exclude=drop) for r in done[1].rows]


def test_pairs_are_found_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("original", "retrained", "retrained_seed2", "notes"):
        (tmp_path / "data" / "models" / "tofu_tiny" / name).mkdir(parents=True)
        if name != "notes":
            (tmp_path / "data" / "models" / "tofu_tiny" / name / "config.json").write_text("{}")
    found = find_pair("tofu_tiny", tmp_path / "data")
    assert found and found.original.name == "original" and [p.name for p in found.retrained] == ["retrained",
                                                                                               "retrained_seed2"]
    monkeypatch.setenv("EXPUNGE_DATA", str(tmp_path / "data"))
    assert find_pair("tofu_tiny") == found == find_pair(str(tmp_path / "data" / "models" / "tofu_tiny"))
    assert find_pair("gpt2") is None
    with pytest.raises(MissingError, match="tofu_tiny are not here"):
        find_pair("tofu_tiny", tmp_path)


def rows_of(*names: str) -> tuple[expunge.Example, ...]:
    return tuple(expunge.Example(id=name, prompt=name, answer="a") for name in names)


def test_what_a_control_never_saw_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = expunge.Task(name="tofu:forget10", forget=rows_of("a", "b", "c"), retain=rows_of("d"))
    monkeypatch.setattr("expunge.submissions.load_task", lambda name, data_dir: whole)
    assert unseen_note("tofu_tiny", whole, None) == ""
    part = expunge.Task(name="tofu:forget01", forget=rows_of("c"), retain=rows_of("a", "b", "d"))
    said = unseen_note("tofu_tiny", part, None)
    assert "without all 3 rows of tofu:forget10" in said and "2 retain rows of this task are among them" in said
    with pytest.raises(UsageError, match="trained on 1 of the 2 forget rows"):
        unseen_note("tofu_tiny", expunge.Task(name="other", forget=rows_of("c", "d"), retain=()), None)


def test_published_rows_name_model_and_source() -> None:
    found = published_rows("tofu:forget01")
    npo = next(row for row in found if row.title == "NPO")
    assert [npo.scores[name].value for name in VARIANTS] == [0.92, 0.56, 0.66]
    assert npo.kind == "published" and "open-unlearning" in npo.about
    assert {row.title for row in published_rows("muse:news") if "8f9872c" in row.about} >= {"retrained", "NPO", "RMU"}
    assert published_rows("authors") == []


@pytest.mark.parametrize(("options", "says"), [
    ({"methods": "ga", "trials": 0}, "--trials must be at least 1"), ({}, "needs methods"),
    ({"methods": "ga", "lr": [1e-4], "settings": expunge.RunSettings(lr=1e-3)}, "lists of learning rates"),
    ({"methods": "ga", "submissions": ["run"]}, "takes no --methods")])
def test_what_cannot_be_run_is_refused(options: dict[str, Any], says: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=says):
        expunge.bench("authors", out=tmp_path / "bench", **options)
    assert not (tmp_path / "bench").exists()


def test_a_model_needs_a_retrained_one(cli: Any, world: Any, tmp_path: Path) -> None:
    cli.refused("bench", world.task, "--model", world.original, "--methods", "ga", "--out", tmp_path / "bench",
                says=["compares with a retrained model"])
