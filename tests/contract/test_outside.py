"""A plug-in that lives outside the package, found through an entry point like any of ours."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from expunge import registry
from expunge.errors import UsageError
from expunge.methods.recipe import parse
from expunge.testing import check_plugin
from expunge.testing.support import memoriser, train, weights

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "docs" / "examples" / "focus.py"


def install(site: Path, points: dict[str, str]) -> None:
    """What an installer leaves of a distribution with these entry points."""
    info = site / "somebody_elses-0.1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: somebody-elses\nVersion: 0.1\n")
    lines = [f"{name} = {target}" for name, target in points.items()]
    (info / "entry_points.txt").write_text("\n".join(["[expunge.plugins]", *lines, ""]))


look_again = registry.look_again


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    monkeypatch.undo()
    sys.modules.pop("focus_elsewhere", None)
    look_again()


@pytest.fixture
def outside(site: Path) -> Path:
    """The example of the documentation, installed under a module name of its own."""
    (site / "focus_elsewhere.py").write_text(SOURCE.read_text(encoding="utf-8"), encoding="utf-8")
    install(site, {"focus": "focus_elsewhere:Focus"})
    look_again()
    return site


def test_the_example_is_short() -> None:
    assert len(SOURCE.read_text(encoding="utf-8").splitlines()) <= 40


def test_the_guide_shows_exactly_the_example() -> None:
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert f"```python\n{SOURCE.read_text(encoding='utf-8')}```\n" in page


def test_it_is_listed_without_being_imported(outside: Path) -> None:
    (found,) = [e for e in registry.of_kind("objective") if e.name == "focus"]
    assert found.summary == "gradient ascent, weighted by the chance that a few samples show the token"
    assert "focus_elsewhere" not in sys.modules


def test_listing_imports_no_torch(outside: Path) -> None:
    code = ("import sys; from expunge import registry; names = [e.name for e in registry.of_kind('objective')];"
            "assert 'focus' in names and 'npo' in names; assert not {'torch', 'focus_elsewhere'} & sys.modules.keys()")
    done = subprocess.run([sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": str(outside)},
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_it_is_part_of_a_recipe_and_trains(outside: Path) -> None:
    (stage,) = parse("focus(samples=2) + retain_nll", 3)
    assert stage.objective is not None and stage.objective.spec.samples == 2
    run = train("focus(samples=2) + retain_nll", steps=2)
    assert set(run.lines[-1]["terms"]) == {"focus", "retain_nll"}
    before = weights(memoriser())
    assert any(not torch.equal(p, before[n]) for n, p in weights(run.subject).items())


def test_it_passes_every_check(outside: Path) -> None:
    check_plugin(registry.load("focus"))


def test_a_wrong_option_of_it_is_refused_like_ours(outside: Path) -> None:
    with pytest.raises(UsageError, match="Did you mean samples"):
        parse("focus(sampels=2)")


BROKEN = {
    "taken": ("focus_elsewhere:Focus", SOURCE.read_text(encoding="utf-8").replace('name="focus"', 'name="npo"'),
              "Two plug-ins are called 'npo'"),
    "lost": ("nowhere_to_be_found:Lost", "", "nowhere_to_be_found, which is not installed"),
    "inner": ("nowhere_to_be_found.deeper:Lost", "", "ModuleNotFoundError"),
    "cardless": ("focus_elsewhere:Focus", "class Focus:\n    pass\n", "has no card"),
    "unfinished": ("focus_elsewhere:Focus", "class Focus(:\n", "SyntaxError"),
    "half": ("focus_elsewhere:Focus", "class Focus:\n    card = Card(name='half')\n", "KeyError"),
    "raises": ("focus_elsewhere:Focus", SOURCE.read_text(encoding="utf-8").replace('name="focus"', 'name="raises"')
               + "\nraise OSError('no licence server')\n", "OSError: no licence server"),
}
"""Kind of fault -> entry point, source, and what is said of it."""


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_plug_in_is_told_by_the_doctor_and_stops_nobody(site: Path, cli: Any, name: str) -> None:
    target, source, why = BROKEN[name]
    (site / "focus_elsewhere.py").write_text(source, encoding="utf-8")
    install(site, {name: target})
    look_again()
    assert why in cli("doctor", "--json", code=3).json["problems"]
    assert "npo" in cli("ls", "objectives").out
    assert parse("npo + retain_nll", 3)
    if name != "taken":  # asked for itself, it says what is wrong
        with pytest.raises(UsageError, match=r"cannot be imported|installed and broken"):
            registry.load(name)


def test_a_broken_task_leaves_the_others(site: Path) -> None:
    from expunge.benchmarks.loading import task_names

    (site / "tasks_elsewhere.py").write_text(
        "class Mine:\n    card = Card(name='mine', kind='task', summary='rows')\nraise RuntimeError\n")
    install(site, {"mine": "tasks_elsewhere:Mine"})
    look_again()
    assert "authors" in task_names() and "mine" not in task_names()
