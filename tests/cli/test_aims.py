"""Options that say where to aim and how to ask: --forget-target, --stop-at-target, --template."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from expunge.cli.main import app

WORLD = ["--task", "authors(forget=2, retain=4, holdout=2, neighbours=1)"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("aims")
    config = place / "config.json"
    config.write_text(json.dumps({
        "model_type": "llama", "vocab_size": 512, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 512}))
    done = CliRunner().invoke(app, ["train", str(config), *WORLD, "--steps", "4", "--out", str(place / "model")])
    assert done.exit_code == 0, done.output
    return place / "model"


def forget(model: Path, out: Path, *options: str) -> object:
    return CliRunner().invoke(app, ["forget", str(model), *WORLD, "--method", "ga", "--lr", "1e-3", "--batch-size", "4",
                                    "--out", str(out), *options])


def test_a_target_of_ones_own_stops_the_run(model: Path, tmp_path: Path) -> None:
    done = forget(model, tmp_path / "run", "--forget-target", "0.9", "--stop-at-target", "--eval-every", "1")
    assert done.exit_code == 0, done.output  # type: ignore[attr-defined]
    record = json.loads((tmp_path / "run" / "record.json").read_text())
    assert record["status"] == "finished" and record["timing"]["steps"] == 1
    assert "reached the target 0.900" in record["reason"]


def test_a_template_reaches_the_model(model: Path, tmp_path: Path) -> None:
    plain = forget(model, tmp_path / "a", "--dry-run")
    other = forget(model, tmp_path / "b", "--steps", "1", "--template", "Ask: {prompt}\nSay:")
    assert plain.exit_code == 0 and other.exit_code == 0  # type: ignore[attr-defined]
    usual = forget(model, tmp_path / "c", "--steps", "1")
    assert usual.exit_code == 0  # type: ignore[attr-defined]
    first = [json.loads((tmp_path / n / "steps.jsonl").read_text().splitlines()[0])["loss"] for n in ("b", "c")]
    assert first[0] != first[1]


def test_a_template_without_a_place_for_the_prompt_is_refused(model: Path, tmp_path: Path) -> None:
    done = forget(model, tmp_path / "run", "--template", "Question:")
    assert done.exit_code == 2  # type: ignore[attr-defined]
    assert not (tmp_path / "run").exists()
