"""Python is as good as the command line: types, documented arguments, one-screen reprs, callbacks, trackers."""

from __future__ import annotations

import ast
import inspect
import os
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from accelerate.tracking import GeneralTracker

import expunge
from expunge import console
from expunge.benchmarks.loading import as_task
from expunge.console import Reporter, default_reporter
from expunge.errors import MissingExtra, UsageError
from expunge.methods.plan import Plan
from expunge.records.grid import Grid, GridCell
from expunge.records.overview import LINES, WIDTH, Overview
from expunge.records.settings import AuditSettings, RunSettings, TrainSettings
from expunge.watching import check_trackers, figures

from ..cases import case

VERBS = ("train", "forget", "audit", "sweep", "grid", "compare", "report", "make_shadows", "merge", "load_task",
         "load_subject", "demo", "add_file", "certify", "verify")
SOURCE = Path(expunge.__file__).parent


def function(name: str) -> Any:
    """A verb, or the function behind a package that can be called."""
    verb = getattr(expunge, name)
    return getattr(import_module(verb._home), name) if inspect.ismodule(verb) and hasattr(verb, "_home") else verb


@pytest.fixture(scope="module")
def run(rows: Any, model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]], Any]:
    """A run of two stages of which every step was seen by a function and by a tracker; all paths are strings."""
    out, seen, tracker = tmp_path_factory.mktemp("run") / "r", list[dict[str, Any]](), FakeTracker()
    expunge.forget(str(model), method="npo >> ga + retain_nll", forget=str(rows.forget), retain=str(rows.retain),
                   holdout=str(rows.holdout), out=str(out), steps=2, lr=1e-4, on_step=seen.append, track=[tracker])
    return out, seen, tracker


class FakeTracker(GeneralTracker):
    """Keeps what it is told."""

    name = "fake"
    requires_logging_directory = False

    def __init__(self) -> None:
        super().__init__(_blank=True)
        self.settings: dict[str, Any] = {}
        self.logged: list[tuple[int, dict[str, float]]] = []
        self.finished = 0

    @property
    def tracker(self) -> Any:
        return self

    def start(self) -> None:
        pass

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        self.settings = values

    def log(self, values: dict[str, float], step: int | None = None, **more: Any) -> None:
        self.logged.append((step or 0, values))

    def finish(self) -> None:
        self.finished += 1


# Types

MISTAKES = '''
import expunge
plan: str = expunge.forget("m", method="ga", out="o", dry_run=True)
record: expunge.Audit = expunge.train("tiny", task="authors", out="o")
found = expunge.audit("m", original=3)
cells: int = expunge.grid(methods="ga", out="o").cells
fine: expunge.Audit = expunge.audit("m", forget="f.jsonl")
values: float = fine.examples
page = expunge.report(7, out="p")
task: expunge.Task = expunge.load_task(forget="f.jsonl")
'''


@pytest.mark.slow
def test_mypy_finds_the_wrong_assignments(tmp_path: Path) -> None:
    pytest.importorskip("mypy")
    mine = tmp_path / "mistakes.py"
    mine.write_text(MISTAKES, encoding="utf-8")
    path = case("typing_check.py")
    # The project's own options and cache: after `make lint` this takes seconds, without it a minute.
    said = subprocess.run([sys.executable, "-m", "mypy", str(path), str(mine)], capture_output=True, text=True,
                          cwd=SOURCE.parents[1], env={**os.environ, "MYPYPATH": str(SOURCE.parent)})
    wrong = [(Path(name).name, int(line)) for name, line in re.findall(r"^(.*?):(\d+): error", said.stdout, re.M)]
    assert wrong == [("mistakes.py", n) for n in (3, 4, 5, 6, 8, 9)] + [("typing_check.py", 3)], said.stdout
    assert 'Revealed type is "expunge.records.task.Task"' in said.stdout and (SOURCE / "py.typed").exists()


def test_type_checkers_see_every_public_name() -> None:
    tree = ast.parse((SOURCE / "__init__.py").read_text(encoding="utf-8"))
    seen = {alias.asname for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names
            if alias.asname}
    assert seen == set(expunge.__all__)


# Arguments

@pytest.mark.parametrize("name", VERBS)
def test_every_argument_is_documented(name: str) -> None:
    said = function(name).__doc__ or ""
    own = [p for p in inspect.signature(function(name)).parameters]
    missing = [p for p in own if not re.search(rf"\b{p}\b[^\n]*:|`{p}`", said)]
    assert not missing, f"{name} does not say what {missing} are"


@pytest.mark.parametrize(("name", "record"), [
    ("train", TrainSettings), ("forget", RunSettings), ("audit", AuditSettings)])
def test_options_of_a_verb_are_those_of_the_command_line(name: str, record: Any) -> None:
    shown = inspect.signature(function(name)).parameters
    assert set(record.model_fields) <= set(shown) and "options" not in shown
    assert all(shown[field].default == about.default for field, about in record.model_fields.items())


def test_files_need_no_name(rows: Any, tmp_path: Path) -> None:
    task = expunge.load_task(forget=str(rows.forget), retain=rows.retain)
    assert len(task.forget) == 4 and len(task.retain) == 6


@pytest.mark.parametrize("given", [{"name": [{"question": "q"}]}, {"forget": [{"question": "q", "answer": "a"}]}])
def test_rows_in_memory_are_refused_with_the_way(given: dict[str, Any]) -> None:
    with pytest.raises(expunge.ExpungeError, match="from a list") as refused:
        expunge.load_task(**given)
    assert "json.dumps" in str(refused.value)


def test_records_are_read_from_a_folder_given_as_text(run: Any) -> None:
    assert expunge.RunRecord.read(str(run[0])) == expunge.RunRecord.read(run[0] / "record.json")


# What a shell and a notebook show

def test_a_repr_is_one_screen(run: Any, rows: Any) -> None:
    task = expunge.load_task(forget=rows.forget, retain=rows.retain)
    record = expunge.RunRecord.read(run[0])
    made = Grid(model="m", model_fingerprint="f", retrained=(), task="t", task_fingerprint="t", environment={},
                settings=RunSettings(), audit=AuditSettings(), cells=tuple(
                    GridCell(method="npo" * 50, lr=1e-4, seed=i, folder=str(i)) for i in range(90)))
    for shown in (task, record, made):
        lines = repr(shown).splitlines()
        assert 1 < len(lines) <= LINES and max(map(len, lines)) <= WIDTH and str(shown) == repr(shown)
        assert "<script" not in shown._repr_html_() and "<table>" in shown._repr_html_()
    assert "4" in repr(task) and "Where does Ada live?" in repr(task) and "npo >> ga + retain_nll" in repr(record)
    assert "more" in repr(made).splitlines()[-1]
    assert expunge.RunSettings()._repr_html_() is None and "epochs=" in repr(expunge.RunSettings())


def test_an_audit_and_a_plan_show_what_matters(rows: Any, model: Path, tmp_path: Path) -> None:
    found = expunge.audit(str(model), forget=str(rows.forget), out=str(tmp_path / "a"), resamples=10,
                          suite=["forget.probability", "prefix(words=1)"])
    assert "verdict: " in repr(found) and "forget.probability" in repr(found) and "attacks: 0 of 1" in repr(found)
    plan = expunge.forget(model, method="npo", forget=rows.forget, out=tmp_path / "r", steps=3, dry_run=True)
    assert isinstance(plan, Plan) and "steps: 3" in repr(plan) and "4 forget" in repr(plan)


def test_text_of_rows_is_escaped() -> None:
    shown = Overview("<b>", [("label", "<script>")], ("a",), [("<i>",)])
    assert "&lt;script&gt;" in shown.html() and "<i>" not in shown.html()


# Progress and callbacks

def test_every_step_is_seen(run: Any) -> None:
    _, seen, tracker = run
    steps = [line["step"] for line in seen]
    assert steps[:3] == [1, 2, 1] and "npo" in seen[1]["terms"] and "ga" in seen[2]["terms"]
    assert [step for step, _ in tracker.logged] == list(range(1, len(steps) + 1)) and tracker.finished == 1
    assert tracker.logged[-1][1]["terms/ga"] == seen[-1]["terms"]["ga"] and "eval/forget" in tracker.logged[-1][1]
    assert tracker.settings["recipe"] == "npo >> ga + retain_nll" and tracker.settings["steps"] == 2
    assert all(isinstance(v, int | float | bool | str) for v in tracker.settings.values())


def test_figures_are_numbers_by_one_name() -> None:
    line = {"step": 3, "loss": 1, "terms": {"npo": 0.5}, "alarms": ["x"], "eval": {"forget": 0.1}}
    assert figures(line) == {"loss": 1.0, "terms/npo": 0.5, "eval/forget": 0.1}


def test_an_unknown_or_missing_tracker_is_refused_first(model: Path, rows: Any, tmp_path: Path, cli: Any,
                                                        monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="no tracker 'tensorbord'") as unknown:
        check_trackers("tensorbord")
    assert "Did you mean tensorboard" in unknown.value.why
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtra) as missing:
        check_trackers(["wandb"])
    assert "pip install '.[wandb]'" in missing.value.fix
    cli.refused("forget", model, *rows.words, "--method", "ga", "--track", "trackio", "--out", tmp_path / "r",
                says=("'.[trackio]'",))
    assert not (tmp_path / "r").exists()


def test_tensorboard_gets_the_figures(model: Path, rows: Any, tmp_path: Path, cli: Any) -> None:
    pytest.importorskip("tensorboard", reason="tensorboard is not installed; a fake tracker is tested above")
    cli("forget", model, *rows.words, "--method", "ga", "--steps", 1, "--track", "tensorboard", "--out", tmp_path / "r")
    assert list((tmp_path / "r" / "tracking").rglob("events.out.tfevents.*"))


def test_a_script_is_silent_and_a_notebook_is_not(monkeypatch: pytest.MonkeyPatch,
                                                  capsys: pytest.CaptureFixture[str]) -> None:
    assert default_reporter().quiet and not console.in_notebook()
    default_reporter().task("rows", 2)(2)
    assert capsys.readouterr().err == ""
    shell = type("ZMQInteractiveShell", (), {})()
    monkeypatch.setitem(sys.modules, "IPython", type("Module", (), {"get_ipython": staticmethod(lambda: shell)}))
    assert console.in_notebook() and not default_reporter().quiet
    tick = Reporter().task("rows", 2)
    tick(1, "half")
    tick(1)
    assert "rows" in capsys.readouterr().err


def test_a_person_at_a_prompt_sees_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "ps1", ">>> ", raising=False)
    assert not default_reporter().quiet


@pytest.mark.parametrize("file", ["forget", "retain", "holdout"])
def test_a_file_beside_a_task_is_refused(rows: Any, file: str) -> None:
    """It was left out without a word."""
    task = expunge.load_task(forget=rows.forget, holdout=rows.holdout)
    with pytest.raises(UsageError, match="brings its own rows"):
        as_task(task, expunge.AuditSettings(), **{file: rows.holdout})
    with pytest.raises(UsageError, match="brings its own rows"):
        expunge.forget("nowhere", task=task, method="ga", out="nowhere", **{file: rows.holdout})
    assert as_task(task, expunge.AuditSettings(), **{file: None}) is not None


def test_training_without_forget_rows_is_refused(tmp_path: Path) -> None:
    kept = (expunge.Example(id="a", prompt="Who?", answer="It is I."),)
    with pytest.raises(UsageError, match="The task t has no forget rows"):
        expunge.train("tiny", task=expunge.Task(name="t", forget=(), retain=kept), out=tmp_path / "out")
