"""A plug-in that lives outside the package, found through an entry point like any of ours."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

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


def look_again() -> None:
    importlib.invalidate_caches()
    registry.entries.cache_clear()


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


def test_a_taken_name_is_refused(site: Path) -> None:
    (site / "focus_elsewhere.py").write_text(SOURCE.read_text().replace('name="focus"', 'name="npo"'))
    install(site, {"npo": "focus_elsewhere:Focus"})
    look_again()
    with pytest.raises(UsageError, match="Two plug-ins are called 'npo'"):
        registry.entries()


def test_a_dangling_entry_point_is_named(site: Path) -> None:
    install(site, {"lost": "nowhere_to_be_found:Lost"})
    look_again()
    with pytest.raises(UsageError, match="nowhere_to_be_found"):
        registry.entries()


def test_an_entry_point_without_a_card_is_named(site: Path) -> None:
    (site / "focus_elsewhere.py").write_text("class Focus:\n    pass\n")
    install(site, {"focus": "focus_elsewhere:Focus"})
    look_again()
    with pytest.raises(UsageError, match="has no card"):
        registry.entries()
