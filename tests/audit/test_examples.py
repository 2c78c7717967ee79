"""Scores of single examples: they are what the scores are means of, and can be read as a data frame."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import expunge
from expunge.errors import MissingError, MissingExtra
from expunge.records import examples
from expunge.records.examples import COLUMNS, has_examples, read_examples, write_examples

SUITE = "forget.probability,forget.rouge_l,retain.probability,forget.keyword,mia.loss,prefix(words=1)"


@pytest.fixture(scope="module")
def folder(rows: Any, model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An audit beside an original and two retrained models, all the same random one."""
    place = tmp_path_factory.mktemp("audit") / "a"
    expunge.audit(model, out=place, forget=str(rows.forget), retain=str(rows.retain), holdout=str(rows.holdout),
                  original=model, retrained=[model, model], suite=SUITE, resamples=0)
    return place


def test_scores_are_means_of_their_examples(folder: Path) -> None:
    audit = expunge.Audit.read(str(folder))
    frame = audit.examples()
    assert list(frame.columns) == list(COLUMNS)
    assert set(frame["model"]) == {"subject", "original", "retrained", "retrained2"}
    means = frame[frame["model"] == "subject"].groupby(["score", "attack"])["value"].mean()
    scored = {(s.name, s.attack or ""): s.value for s in audit.scores if s.value is not None}
    without = {name for name, _ in scored} - {name for name, _ in means.index}
    assert without == {"mia.loss"}, "it is of all rows together"
    assert ("forget.probability", "prefix(words=1)") in scored
    for key, mean in means.items():
        assert scored[key] == pytest.approx(mean, abs=1e-12)
    one = frame[(frame["score"] == "forget.probability") & (frame["model"] == "subject") & (frame["attack"] == "")]
    assert list(one["id"]) == [f"forget/{i}" for i in range(4)] and one["entity"].tolist() == one["id"].tolist()


def test_an_audit_is_read_from_its_folder_or_its_file(folder: Path) -> None:
    by_folder, by_file = expunge.Audit.read(folder), expunge.Audit.read(folder / "audit.json")
    assert by_folder == by_file and len(by_folder.examples()) == len(by_file.examples()) > 0
    homeless = expunge.Audit.model_validate(by_file.to_json())
    assert homeless == by_file
    with pytest.raises(MissingError, match="lies in no folder"):
        homeless.examples()


def test_an_audit_that_was_just_made_knows_its_examples(rows: Any, model: Path, tmp_path: Path) -> None:
    made = expunge.audit(model, out=str(tmp_path / "a"), forget=str(rows.forget), suite="forget.probability",
                         resamples=0)
    assert isinstance(made, expunge.Audit) and len(made.examples()) == 4


def test_without_pyarrow_the_table_is_csv(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = read_examples(folder)
    assert (folder / "examples.parquet").exists()
    with monkeypatch.context() as patch:
        patch.setattr(examples, "_parquet", lambda: None)
        with pytest.raises(MissingExtra, match="needs pyarrow"):
            read_examples(folder)
        write_examples(tmp_path, rows)
        assert (tmp_path / "examples.csv").exists() and read_examples(tmp_path) == rows
    write_examples(tmp_path, rows)
    assert [p.name for p in tmp_path.iterdir()] == ["examples.parquet"] and read_examples(tmp_path) == rows


def test_an_earlier_audit_gets_its_table_when_it_is_scored_again(folder: Path, tmp_path: Path, cli: Any) -> None:
    import shutil

    old = tmp_path / "old"
    shutil.copytree(folder, old)
    (old / "examples.parquet").unlink()
    with pytest.raises(MissingError, match="no scores of single examples") as missing:
        expunge.Audit.read(old).examples()
    assert f"expunge audit --rescore {old}" in missing.value.fix and not has_examples(old)
    before = json.loads((old / "audit.json").read_text())
    cli("audit", "--rescore", old)
    assert read_examples(old) == read_examples(folder) and json.loads((old / "audit.json").read_text()) == before
