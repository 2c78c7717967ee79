"""What people try first: a version, a typo, completion, a plug-in of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import expunge
from expunge import registry
from expunge.errors import ExpungeError, MissingError
from expunge.models import places
from expunge.models.places import check_place
from expunge.models.sizes import SIZES

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "focus.py"


def test_the_version_is_said_alike_everywhere(cli: Any) -> None:
    assert cli("--version").out.split() == ["expunge", expunge.__version__]


def test_the_shell_completes_commands() -> None:
    asked = os.environ | {"_EXPUNGE_COMPLETE": "complete_bash", "COMP_WORDS": "expunge fo", "COMP_CWORD": "1"}
    done = subprocess.run([sys.executable, "-c", "from expunge.cli.main import main; main()"], env=asked,
                          capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["forget"], done.stderr


def test_help_names_the_sizes_and_lists_what_comes_first(cli: Any) -> None:
    text = " ".join(cli("train", "--help").out.split())
    assert all(size in text for size in SIZES)
    listed = cli("--help").out
    assert listed.index("  demo") < listed.index("  train") < listed.index("  sweep")


# Names of models that are not there


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub may not be asked at all."""
    def refuse(name: str) -> str:
        raise AssertionError(f"the hub was asked for {name}")

    monkeypatch.setattr(places, "_not_on_the_hub", refuse)


@pytest.mark.parametrize(("typed", "meant"), [
    ("cnnn", "cnn"), ("tiy", "tiny"), ("resnet-20", "resnet20"), ("modle", "model"), ("./modle", "model"),
    ("runs/originl", "runs/original")])
def test_a_mistyped_place_offers_the_nearest_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, typed: str,
                                                     meant: str, no_network: None) -> None:
    monkeypatch.chdir(tmp_path)
    for name, file in (("model", "config.json"), ("runs/original", "record.json")):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / file).write_text("{}")
    with pytest.raises(MissingError, match=f"Did you mean {meant}"):
        check_place(typed, SIZES)


@pytest.mark.parametrize("words", [("train", "./cnn"), ("forget", "/nowhere/at/all", "--method", "ga"),
                                   ("audit", "a/b/c"), ("audit", "~/model"), ("forget", "a model", "--method", "ga")])
def test_what_cannot_be_a_hub_name_is_never_asked_for(cli: Any, tmp_path: Path, words: tuple[str, ...],
                                                      no_network: None) -> None:
    began = time.perf_counter()
    cli.refused(*words, "--task", "authors", "--out", tmp_path / "out", says=["There is no model at"])
    assert time.perf_counter() - began < 5 and not (tmp_path / "out").exists()


def test_what_costs_nothing_is_refused_before_torch_is_imported(tmp_path: Path) -> None:
    code = """
import sys
from expunge.cli.main import app
for words in sys.argv[1:]:
    try:
        app(words.split())
    except SystemExit as ended:
        assert ended.code == 2
assert not {"torch", "transformers"} & {*sys.modules}
"""
    (tmp_path / "rows.jsonl").write_text('{"question": "q", "answer": "a"}\n')
    words = ("forget m --forget rows.jsonl --retain gone.jsonl --out run",
             "audit m --forget rows.jsonl --holdout h.csv", "audit m --forget rows.odd",
             "grid tiny --methods ga --out grid", "forget small --task authors --out run")
    done = subprocess.run([sys.executable, "-c", code, *words], cwd=tmp_path, capture_output=True, text=True,
                          check=False)
    assert done.returncode == 0, done.stderr
    for said in ("gone.jsonl does not exist", "h.csv does not exist", "'.odd' cannot be read",
                 "expunge train tiny --task authors --out original", "expunge train small"):
        assert said in " ".join(done.stderr.split())


@pytest.mark.parametrize("which", ["--original", "--retrained"])
def test_the_other_models_of_an_audit_are_looked_for_too(cli: Any, model: Path, tmp_path: Path, which: str,
                                                         no_network: None) -> None:
    cli.refused("audit", model, "--task", "authors", "--out", tmp_path / "out", which, tmp_path / "nowhere",
                says=["There is no model at"])


def test_a_hub_name_without_a_hub_is_one_quick_message(cli: Any, tmp_path: Path) -> None:
    began = time.perf_counter()
    cli.refused("forget", "somebody/some-model", "--task", "authors", "--method", "ga", "--out", tmp_path / "out",
                says=["There is no model at 'somebody/some-model'", "the hub cannot be reached"])
    assert time.perf_counter() - began < places.PATIENCE + 5


# Plug-ins of one's own


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "my method.py"
    path.write_text(EXAMPLE.read_text(encoding="utf-8"), encoding="utf-8")
    yield path
    registry._FILES.clear()
    registry.look_again()


def test_a_method_of_ones_own_without_packaging(cli: Any, own: Path, model: Path, rows: Any, tmp_path: Path) -> None:
    assert "focus" in cli("ls", "objectives", "--plugin", own, "--json").json["objectives"]
    assert cli("explain", "focus", "--plugin", own).out.startswith("focus (objective)")
    assert "focus (my method.py)" in cli("doctor", "--plugin", own, "--json").json["plug-ins of others"]
    cli("forget", model, *rows.words, "--plugin", own, "--method", "focus(samples=2)", "--steps", 1, "--out",
        tmp_path / "run")
    record = json.loads((tmp_path / "run" / "record.json").read_text())
    assert set(record["environment"]["plugin_files"]) == {"my method.py"}
    cli("audit", tmp_path / "run", "--plugin", own, "--suite", "forget.probability")


@pytest.mark.parametrize(("source", "says"), [
    ("class Focus(:\n", "SyntaxError"), ("x = 1\n", "holds no plug-in"), ("", "holds no plug-in"),
    (EXAMPLE.read_text(encoding="utf-8").replace('name="focus"', 'name="npo"'), "Two plug-ins are called 'npo'"),
    ("class A:\n    card = Card(name='a')\n", "cannot be read")])
def test_a_plugin_file_that_cannot_be_used(cli: Any, own: Path, source: str, says: str) -> None:
    own.write_text(source, encoding="utf-8")
    cli.refused("ls", "--plugin", own, says=[says])
    assert "npo" in cli("ls", "objectives").out, "it is not kept"


def test_a_plugin_file_that_raises_says_so_when_it_is_used(cli: Any, own: Path, model: Path, rows: Any,
                                                          tmp_path: Path) -> None:
    own.write_text(EXAMPLE.read_text(encoding="utf-8") + "\n1 / 0\n", encoding="utf-8")
    cli.refused("forget", model, *rows.words, "--plugin", own, "--method", "focus", "--out", tmp_path / "run",
                says=["cannot be imported", "ZeroDivisionError"])
    assert "ZeroDivisionError" in cli("doctor", "--plugin", own, "--json", code=3).json["problems"]


def test_python_knows_the_same(own: Path, tmp_path: Path) -> None:
    (made,) = expunge.add_file(own)
    assert made.name == "focus" and registry.load("focus").card.name == "focus"
    with pytest.raises(ExpungeError, match="There is no plug-in file"):
        expunge.add_file(tmp_path / "nowhere.py")
