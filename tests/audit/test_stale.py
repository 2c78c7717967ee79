"""Observations are served again only where nothing that decides them has changed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from expunge.audit.cache import ObservationCache
from expunge.data.text_encoder import TextEncoder
from expunge.data.tokenizer_content import content
from expunge.models.load import load_processor, load_subject
from expunge.probes.generation import Generation
from expunge.probes.likelihood import Likelihood
from expunge.testing.support import small_task
from tests.cases import case, tofu_tiny

Edit = Callable[[dict[str, Any]], object]


def edited(file: str, change: Edit) -> Callable[[Path], None]:
    def edit(model: Path) -> None:
        path = model / file
        data = json.loads(path.read_text()) if path.exists() else {}
        change(data)
        path.write_text(json.dumps(data))
    return edit


def begin_every_text(data: dict[str, Any]) -> None:
    """A post-processor that puts BOS before every text."""
    bos = {"id": "<|bos|>", "ids": [1], "tokens": ["<|bos|>"]}
    data["post_processor"] = {"type": "TemplateProcessing", "special_tokens": {"<|bos|>": bos}, "pair": [
        {"SpecialToken": {"id": "<|bos|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
        {"Sequence": {"id": "B", "type_id": 1}}], "single": [
        {"SpecialToken": {"id": "<|bos|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]}


CHANGES: dict[str, Callable[[Path], None]] = {
    "normaliser": edited("tokenizer.json", lambda d: d.update(normalizer={"type": "Lowercase"})),
    "post-processor": edited("tokenizer.json", begin_every_text),
    "decoder": edited("tokenizer.json", lambda d: d.update(decoder={"type": "Sequence", "decoders": [
        d["decoder"], {"type": "Replace", "pattern": {"String": "e"}, "content": "3"}]})),
    "end token": edited("tokenizer_config.json", lambda d: d.update(eos_token="<|user|>")),
    "options": edited("tokenizer_config.json", lambda d: d.update(split_special_tokens=True)),
    "penalty": edited("generation_config.json", lambda d: d.update(repetition_penalty=1.5)),
    "suppressed": edited("generation_config.json", lambda d: d.update(suppress_tokens=[70, 71])),
    "second end": edited("generation_config.json", lambda d: d.update(eos_token_id=[2, 30])),
}


@pytest.fixture(scope="module")
def copied(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str | None], Path]:
    def make(change: str | None) -> Path:
        folder = tmp_path_factory.mktemp("changed") / "model"
        shutil.copytree(model, folder)
        if change:
            CHANGES[change](folder)
        return folder
    return make


def keys(folder: Path) -> tuple[str, str]:
    """Of likelihoods and of answers."""
    subject, task = load_subject(folder), small_task()
    made = [ObservationCache().key(subject, probe, task.forget, task) for probe in (Likelihood(), Generation())]
    return made[0], made[1]


@pytest.mark.parametrize("change", CHANGES)
def test_whatever_decides_an_answer_is_part_of_its_key(change: str, copied: Callable[[str | None], Path]) -> None:
    before, same, after = keys(copied(None)), keys(copied(None)), keys(copied(change))
    assert before == same
    assert before[1] != after[1]


@pytest.mark.parametrize("change", ["normaliser", "end token"])
def test_a_second_audit_shows_the_numbers_of_an_empty_cache(
        change: str, cli: Any, rows: Any, copied: Callable[[str | None], Path], tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch) -> None:
    model = copied(None)

    def scores(out: str) -> dict[str, float]:
        found = cli("audit", model, "--forget", rows.forget, "--suite", "forget.probability,forget.rouge_l",
                    "--out", tmp_path / out, "--json").json
        return {s["name"]: s["value"] for s in found["scores"]}

    before = scores("a")
    assert scores("again") == before
    CHANGES[change](model)
    served = scores("b")
    monkeypatch.setenv("EXPUNGE_CACHE", str(tmp_path / "empty"))
    assert served == scores("c") != before


def test_a_hit_asks_nothing(cli: Any, rows: Any, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ("audit", model, "--forget", rows.forget, "--suite", "forget.probability,forget.rouge_l", "--json", "--out")
    first = cli(*words, tmp_path / "a").json["scores"]
    for probe in (Likelihood, Generation):
        monkeypatch.setattr(probe, "observe", lambda *a, **k: pytest.fail("the model was asked again"))
    assert cli(*words, tmp_path / "b").json["scores"] == first and first[0]["value"] is not None


def test_a_row_is_read_once_for_all_probes(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every attack at every strength asks for a key of the same rows."""
    subject, task, cache = load_subject(model), small_task(), ObservationCache()
    first = cache.key(subject, Likelihood(), task.forget, task)
    monkeypatch.setattr(type(subject), "as_read", lambda *a: pytest.fail("read again"))
    assert cache.key(subject, Likelihood(), task.forget, task) == first
    assert cache.key(subject, Generation(), task.forget, task) != first


@pytest.mark.slow
def test_an_adapter_has_one_key_in_every_process(model: Path, tmp_path: Path) -> None:
    """peft keeps its targets in a set, whose order differs from process to process."""
    from expunge.models.adapter import add_adapter

    subject = load_subject(model)
    add_adapter(subject, rank=2)
    subject.save(tmp_path / "adapter")
    code = ("import sys; from expunge.models.load import load_subject; from expunge.audit.cache import model_key; "
            "print(model_key(load_subject(sys.argv[1])))")
    found = {subprocess.run([sys.executable, "-c", code, str(tmp_path / "adapter")], capture_output=True, text=True,
                            env={**os.environ, "PYTHONHASHSEED": seed}, check=True).stdout
             for seed in ("1", "2")}
    assert len(found) == 1


def test_tokenizers_written_in_python_are_told_apart(tmp_path: Path) -> None:
    from transformers import ByT5Tokenizer

    one, same, other = ByT5Tokenizer(), ByT5Tokenizer(), ByT5Tokenizer(eos_token="<pad>")
    assert content(one) == content(same) != content(other)


def test_rows_in_memory_are_of_the_same_tokenizer(copied: Callable[[str | None], Path]) -> None:
    """Two tokenizers with one vocabulary in one process."""
    row = small_task().forget[0]
    plain, small = (TextEncoder(load_processor(copied(change))).encode(row) for change in (None, "normaliser"))
    assert plain.ids != small.ids


@pytest.mark.slow
def test_the_case_as_it_was_found(tmp_path: Path) -> None:
    expunge = f"{sys.executable} -m expunge.cli.main"
    said = subprocess.run(["bash", case("stale_cache.sh"), tofu_tiny(), case("auditor_forget.jsonl")], text=True,
                          capture_output=True, env={**os.environ, "EXPUNGE": expunge}, check=True).stdout
    before, after = said.split("-- ")
    lines = after.splitlines()[1:]
    assert len(lines) == 4 and lines[:2] == lines[2:] != before.splitlines()
