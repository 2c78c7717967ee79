"""What the page is made of: models, rows, figures, and what is lacking in words."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from expunge.comparator import inside
from expunge.comparator.back import steps_of
from expunge.comparator.page import comparator, page, payload
from expunge.errors import MissingError, MissingExtra, UsageError
from expunge.metrics.cka import linear_cka
from expunge.records.base import read_jsonl
from expunge.records.score import Audit
from expunge.testing.stored_runs import PEOPLE, TOWNS, write_runs
from expunge.testing.support import once


@pytest.fixture(scope="session")
def two() -> list[Path]:
    """Two runs of twenty rows; nobody writes to them."""
    def make(folder: Path) -> None:
        write_runs(folder, runs=2, rows=20)

    place = once("two-runs", make)
    return [place / "run1", place / "run2"]


@pytest.fixture(scope="session")
def data(two: list[Path]) -> dict[str, Any]:
    return payload(two)


@pytest.fixture
def own(two: list[Path], tmp_path: Path) -> list[Path]:
    return [Path(shutil.copytree(run, tmp_path / run.name)) for run in two]


def test_every_model_stands_once(data: dict[str, Any]) -> None:
    """Both audits looked at the same original and retrained model."""
    assert [(m["key"], m["kind"], m["label"]) for m in data["models"]] == [
        ("1", "run", "1: npo + retain_kl"), ("2", "run", "2: ga"), ("original", "original", "original"),
        ("retrained", "retrained", "retrained")]


def test_rows_are_those_of_the_audits(data: dict[str, Any], two: list[Path]) -> None:
    assert data["rows"]["split"] == ["forget"] * 8 + ["retain"] * 8 + ["holdout"] * 4
    said = next(read_jsonl(two[0] / "observations/subject/generation.forget.jsonl"))
    assert (data["rows"]["prompt"][0], data["rows"]["reference"][0]) == (said["prompt"], said["reference"])
    assert data["texts"][data["answers"]["1"][0]] == said["text"]
    assert [m["name"] for m in data["measures"]] == ["probability", "loss"]
    assert len(data["values"]["probability"]["original"]) == 20 and len(set(data["texts"])) == len(data["texts"])


def test_figures_of_screening(data: dict[str, Any], two: list[Path]) -> None:
    forget, utility, privacy, cost = ({c["name"]: c for c in d["choices"]} for d in data["dimensions"])
    score = Audit.read(two[0]).score("forget.probability")
    assert score is not None and score.value is not None and score.controls["retrained"] is not None
    known, far = forget["forget.probability"], score.value - score.controls["retrained"]
    assert known["better"] == "low" and known["values"]["1"] == pytest.approx(far, rel=1e-3)
    assert known["values"]["retrained"] == 0.0
    assert utility["retain.probability"]["better"] == "high"
    assert 0 <= privacy["privacy_score"]["values"]["1"] <= privacy["privacy_score"]["values"]["2"] <= 1
    assert cost["train_s"]["values"]["1"] == 50.0 and "retrained" not in cost["train_s"]["values"]


def test_similarity_is_that_of_the_metric(data: dict[str, Any], two: list[Path]) -> None:
    def states(who: str) -> Any:
        rows = {r["id"]: r["states"] for r in read_jsonl(two[0] / f"observations/{who}/hidden.forget.jsonl")}
        return np.asarray([rows[key] for key in sorted(rows)])

    first, second = states("subject"), states("original")
    assert data["inside"]["cka"]["forget"]["1|original"] == pytest.approx(
        [linear_cka(first[:, i], second[:, i]) for i in range(3)], abs=1e-3)


def test_principal_components_are_shared(data: dict[str, Any]) -> None:
    found = data["inside"]["map"]
    assert set(found) == {"0", "1", "2"} and 0.5 < found["0"]["share"] <= 1
    assert set(found["0"]["points"]) == {"1", "2", "original", "retrained"}
    assert all(len(points) == 20 for points in found["0"]["points"].values())


@pytest.mark.parametrize(("count", "places"), [(1, [0]), (2, [0, 1]), (3, [0, 1, 2]), (8, [0, 4, 7])])
def test_layers_to_draw(count: int, places: list[int]) -> None:
    assert inside.spread(count) == places


@pytest.mark.parametrize(("label", "told"), [
    ("relearn", ("relearn", 48.0)), ("relearn(steps=5)", ("relearn", 5.0)), ("prefix", None),
    ("relearn(on=related, steps=24)", ("relearn(on=related)", 24.0)), ("relearn(steps=16) + prefix", None),
    ("((", None)])
def test_steps_of_a_label(label: str, told: tuple[str, float] | None) -> None:
    assert steps_of(label) == told


def test_curves_begin_before_the_attack(data: dict[str, Any]) -> None:
    points = data["back"]["curves"]["forget.probability"]["relearn"]
    assert set(points) == {"1", "2", "retrained"} and [p[0] for p in points["1"]] == [0, 5, 20]
    under = data["back"]["values"]["probability"]["relearn(steps=20)"]
    assert set(under) == {"1", "2", "original", "retrained"} and len(under["1"]) == 8
    assert set(data["back"]["answers"]) == {"relearn(steps=20)"}


def test_one_run_has_its_references_beside_it(two: list[Path]) -> None:
    assert [m["key"] for m in payload(two[:1])["models"]] == ["1", "original", "retrained"]


def test_runs_that_were_not_audited_stand_beside_others(own: list[Path]) -> None:
    shutil.rmtree(own[1] / "observations")
    for name in ("audit.json", "examples.parquet", "examples.csv"):
        (own[1] / name).unlink(missing_ok=True)
    found = payload(own)
    assert found["models"][1]["verdict"] == "not audited" and "2" not in found["values"]["probability"]
    assert "Not audited, so without scores: run2." in found["cautions"]


def test_what_is_lacking_is_named(own: list[Path]) -> None:
    for name in ("examples.parquet", "examples.csv"):
        (own[0] / name).unlink(missing_ok=True)
    path = own[1] / "observations/subject/generation.forget.jsonl"
    path.write_text(path.read_text().replace("In which town", "Where"), encoding="utf-8")
    found = payload(own)
    assert any(c.startswith("No scores of single rows: run1.") for c in found["cautions"])
    assert any(c.startswith("8 rows have one id and different prompts") for c in found["cautions"])


def test_no_text_of_a_row_ends_the_data(own: list[Path]) -> None:
    path = own[0] / "observations/subject/generation.forget.jsonl"
    first, *rest = path.read_text(encoding="utf-8").splitlines()
    row = json.loads(first) | {"text": "</script><script>alert(1)</script>\ud800"}
    path.write_text("\n".join([json.dumps(row), *rest]), encoding="utf-8")
    made = page(own)
    assert made.count("</script>") == 2 and "alert(1)" in made


def test_the_command_writes_the_page(cli: Any, two: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    assert cli("compare", *two, "--page", out).out.strip() == str(out)
    assert "2 runs compared" in out.read_text(encoding="utf-8")
    assert cli("compare", *two, "--page", out, "--json").json == {"page": str(out), "redacted": False}


def test_bad_input(cli: Any, two: list[Path], tmp_path: Path) -> None:
    cli.refused("compare", two[0], "--page", tmp_path / "p.html", "--projection", "tsne", says=["tsne", "pca"])
    cli.refused("compare", tmp_path / "nowhere", "--page", tmp_path / "p.html", says=["There is no folder"])
    with pytest.raises(UsageError):
        payload(two, projection="tsne")
    with pytest.raises(MissingError):
        comparator([tmp_path / "nowhere"], out=tmp_path / "p.html")


def test_umap_is_an_extra(two: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match="umap"):
        payload(two, projection="umap")


def test_a_redacted_page_holds_no_row(own: list[Path], cli: Any, tmp_path: Path) -> None:
    """Not in names of folders, labels of attacks and cautions either."""
    named = own[1].rename(own[1].parent / "without-mara-olsen")
    for path in named.glob("observations/*/attacks/*/source.json"):
        path.write_text(path.read_text().replace('"relearn(', '"Mara Olsen relearn('), encoding="utf-8")
    out = tmp_path / "page.html"
    assert cli("compare", own[0], named, "--page", out, "--redact", "--json").json["redacted"]
    made = out.read_text(encoding="utf-8")
    found = payload([own[0], named], redact=True)
    for said in (*PEOPLE, *TOWNS, *(word for name in (*PEOPLE, *TOWNS) for word in name.split() if len(word) > 4)):
        assert said.casefold() not in made.casefold(), said
    assert found["rows"]["prompt"][0] == "forget row 1 (13 words)" and found["rows"]["id"][8] == "retain row 1"
    assert found["texts"][found["answers"]["original"][0]].startswith("6 words, ")
    assert found["values"] == payload([own[0], named])["values"]


def test_what_cannot_be_redacted_is_refused(own: list[Path], cli: Any, tmp_path: Path) -> None:
    shutil.rmtree(own[1] / "observations")
    cli.refused("compare", *own, "--page", tmp_path / "p.html", "--redact", says=["cannot be redacted"])
    cli.refused("compare", *own, "--redact", says=["--redact needs --page"])


def test_an_option_without_effect_is_refused(own: list[Path], cli: Any, tmp_path: Path) -> None:
    page = tmp_path / "p.html"
    cli.refused("compare", *own, "--page", page, "--format", "csv", says=["--format would have no effect"])
    cli.refused("compare", *own, "--page", page, "--scores", "all", says=["--scores would have no effect"])
    cli.refused("compare", *own, "--projection", "umap", says=["--projection needs --page or --serve"])
    assert not page.exists()
