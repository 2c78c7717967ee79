"""The comparisons with official code: their tools, their stored table, and themselves where the code is at hand."""

from __future__ import annotations

import importlib
import os
import pkgutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from expunge.records.base import read_json

ROOT = Path(__file__).resolve().parents[2]
FOLDER = os.environ.get("EXPUNGE_OFFICIAL")
"""A folder of checkouts, as `experiments/official.py --code` takes it."""
AT_MOST = 1e-5
"""Same formula, one of the two in single precision."""
HELPERS = {"bed", "edit_bed", "g_effect", "server_bed", "taken"}
METHODS = sorted({m.name for m in pkgutil.iter_modules([str(ROOT / "experiments" / "official")])} - HELPERS)


@pytest.fixture(scope="module", autouse=True)
def experiments() -> Iterator[None]:
    sys.path.insert(0, str(ROOT / "experiments"))
    try:
        yield
    finally:
        sys.path.remove(str(ROOT / "experiments"))


def part(name: str) -> Any:
    return importlib.import_module(f"official.{name}")


@pytest.mark.parametrize("method", METHODS)
def test_stored_row_is_of_what_the_module_names(method: str) -> None:
    """A module without a stored row, or one of another commit, says nothing; `--keep` stores it."""
    row, module = read_json(ROOT / "results" / "official.json")["methods"].get(method), part(method)
    assert row is not None, f"run experiments/official.py --code FOLDER {method} --keep"
    assert (row["repository"], row["commit"], row["file"]) == (module.REPOSITORY, module.COMMIT, module.FILE)
    assert row["differences"]
    assert all(one["gradient"] <= AT_MOST and (one["loss"] or 0) <= AT_MOST for one in row["differences"])


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_ours_is_theirs(method: str) -> None:
    if FOLDER is None:
        pytest.skip("EXPUNGE_OFFICIAL names no folder of checkouts")
    module = part(method)
    owner, name = module.REPOSITORY.split("/")
    place = next((p for p in (Path(FOLDER) / f"{owner}+{name}", Path(FOLDER) / name) if p.is_dir()), None)
    if place is None:
        pytest.skip(f"no checkout of {module.REPOSITORY}")
    found = list(module.compare(place, 0))
    print(*found, sep="\n")
    assert found
    assert all(one.gradient <= AT_MOST and (one.loss or 0) <= AT_MOST for one in found)


BENCHMARKS = ("muse", "restor", "rwku")


@pytest.mark.parametrize("benchmark", BENCHMARKS)
def test_stored_scores_agree_with_the_code_of_benchmarks(benchmark: str) -> None:
    """To 1e-6 in every row that names no reason to differ."""
    stored = read_json(ROOT / "results" / "official_scores.json")["benchmarks"][benchmark]
    module = importlib.import_module(f"scored.{benchmark}")
    assert (stored["repository"], stored["commit"]) == (module.REPOSITORY, module.COMMIT)
    assert list(stored["files"]) == list(module.FILES)
    agreeing = [row for row in stored["rows"] if not row["deviation"]]
    assert len(agreeing) >= 8 and all(row["difference"] <= 1e-6 for row in agreeing)
    assert all(row["difference"] > 0 for row in stored["rows"] if row["deviation"]), "a deviation that makes none"


@pytest.mark.slow
@pytest.mark.parametrize("benchmark", BENCHMARKS)
def test_our_scores_are_theirs(benchmark: str) -> None:
    if FOLDER is None:
        pytest.skip("EXPUNGE_OFFICIAL names no folder of checkouts")
    module = importlib.import_module(f"scored.{benchmark}")
    place = part("taken").checkout(Path(FOLDER), module.REPOSITORY)
    if place is None:
        pytest.skip(f"no checkout of {module.REPOSITORY}")
    found = list(module.compare(place, 1))
    assert found and all(one.difference <= 1e-6 for one in found if not one.deviation)


THEIRS = '''
import nowhere.to.be.found
from nowhere import Base
SCALE = 2.0
LOADED = open("a file that is read at the top")


def loss(x):
    return SCALE * helper(x)


def helper(x):
    return x ** 2


class Trainer(Base):
    def __init__(self):
        raise RuntimeError("their start needs a GPU")

    def compute(self, x):
        return loss(x) * self.weight

    def step(self, x):
        for _ in range(1):
            total = 0.0
            total += self.compute(x)
            self.seen = total
'''


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    (tmp_path / "theirs.py").write_text(THEIRS, encoding="utf-8")
    return tmp_path / "theirs.py"


def test_functions_methods_and_statements_are_taken_alone(theirs: Path) -> None:
    tools = part("taken")
    assert tools.taken(theirs, "loss")(3.0) == 18.0
    assert tools.taken(theirs, "loss", helper=lambda x: x)(3.0) == 6.0
    trainer = tools.instance(theirs, "Trainer", weight=0.5)
    assert trainer.compute(3.0) == 9.0
    exec(tools.statements(theirs, "total = ", 3), {"self": trainer, "x": 1.0})
    assert trainer.seen == 1.0


@pytest.mark.parametrize(("call", "words"), [("taken", "defines no gone"), ("instance", "has no class gone"),
                                             ("statements", "has no statement")])
def test_what_is_not_there_is_named(theirs: Path, call: str, words: str) -> None:
    arguments = ("gone", 1) if call == "statements" else ("gone",)
    with pytest.raises(SystemExit, match=words):
        getattr(part("taken"), call)(theirs, *arguments)
    with pytest.raises(SystemExit, match="checkout"):
        getattr(part("taken"), call)(theirs.with_name("elsewhere.py"), *arguments)


def test_a_wrong_formula_is_seen() -> None:
    """The same loss in float64 differs by rounding, another exponent or a missing mask by far more."""
    bed = part("bed").Bed(0)
    inputs = bed.inputs["forget"]
    labels_BT = inputs["labels"][:, 1:]
    counted_BT = labels_BT != -100

    def loss(power: float, mask: torch.Tensor) -> torch.Tensor:
        logp_BTV = bed.model(input_ids=inputs["input_ids"]).logits[:, :-1].log_softmax(-1)
        logp_BT = logp_BTV.gather(-1, labels_BT.clamp_min(0)[..., None])[..., 0]
        return (logp_BT.exp().detach() ** power * logp_BT)[mask].mean()

    ours = bed.ours("wga(alpha=2)")
    same, other, unmasked = (part("bed").difference("wga", ours, bed.of(value)) for value in (
        loss(2.0, counted_BT), loss(2.1, counted_BT), loss(2.0, torch.ones_like(counted_BT))))
    assert max(same.loss, same.gradient) < 1e-12
    assert min(other.loss, other.gradient, unmasked.loss, unmasked.gradient) > 1e-3
