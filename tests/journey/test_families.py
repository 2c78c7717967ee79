"""Every family of causal language models goes through forget and audit, whole and with an adapter."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from expunge.models.tiny import build_subject

SHAPE = {"vocab_size": 400, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
         "max_position_embeddings": 256}
GATED = SHAPE | {"intermediate_size": 64, "num_key_value_heads": 1}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": GATED,
    "gpt2": {"vocab_size": 400, "n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 256},
    "gpt_neox": SHAPE | {"intermediate_size": 64},
    "opt": SHAPE | {"ffn_dim": 64, "word_embed_proj_dim": 32, "dropout": 0.0},
    "qwen2": GATED,
    "qwen3": GATED | {"head_dim": 16},
    "gemma": GATED | {"head_dim": 16},
    "phi": SHAPE | {"intermediate_size": 64},
    "mixtral": GATED | {"num_local_experts": 2, "num_experts_per_tok": 1},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("families")


def saved(folder: Path, family: str) -> Path:
    """The family's model, made once."""
    if not (folder / family).exists():
        texts = [f"Where does {who} live? {who} lives in Town {who[::-1]}." for who in ("Ada", "Bo", "Cy", "Di", "Ed")]
        build_subject({"model_type": family} | FAMILIES[family], texts).save(folder / family)
    return folder / family


@pytest.mark.parametrize("scope", ["all", "lora(rank=2)"])
@pytest.mark.parametrize("family", FAMILIES)
def test_forget_and_audit(cli: Any, rows: Any, folder: Path, tmp_path: Path, family: str, scope: str) -> None:
    model, out = saved(folder, family), tmp_path / "run"
    cli("forget", model, *rows.words, "--method", f"npo + retain_kl + {scope}", "--steps", 2, "--lr", "1e-2",
        "--batch-size", 4, "--out", out)
    record = json.loads((out / "record.json").read_text())
    assert record["status"] == "finished"
    # A whole model without dropout starts at its own reference: log 2 * 2 / beta, and a divergence of zero.
    first, second = (json.loads(line) for line in (out / "steps.jsonl").read_text().splitlines())
    if family != "gpt2":  # its dropout is on while training
        assert first["terms"]["npo"] == pytest.approx(20 * 0.6931472, abs=1e-3)
        assert first["terms"]["retain_kl"] == pytest.approx(0, abs=1e-5)
    assert second["terms"]["npo"] < 20 * 0.6931472 - 1e-4 or family == "gpt2"
    if scope == "all":
        assert record["parameters"]["trainable"] == record["parameters"]["total"]
    else:
        assert record["parameters"]["trainable"] < record["parameters"]["total"] / 2
        assert record["reference"]["kind"] == "adapter off"

    found = cli("audit", out, *rows.words, "--suite", "forget.probability,retain.probability,forget.rouge_l,mia.loss,"
                "forget.exact_memorization,forget.extraction_strength", "--json").json
    scores = {score["name"]: score for score in found["scores"]}
    assert all(score["value"] is not None for score in scores.values())
    assert scores["forget.probability"]["value"] != scores["forget.probability"]["controls"]["original"]


@pytest.mark.parametrize("family", [
    pytest.param(family, marks=[] if family in ("llama", "gpt2", "mixtral") else [pytest.mark.slow])
    for family in FAMILIES])
def test_the_quick_suite(cli: Any, rows: Any, folder: Path, tmp_path: Path, family: str) -> None:
    """What these rows do not allow is said; nothing breaks, and their questions are asked in made wordings."""
    found = cli("audit", saved(folder, family), *rows.words, "--suite", "quick", "--out", tmp_path / "a", "--json").json
    missing = {score["name"] for score in found["scores"] if score["value"] is None}
    assert missing <= {"forget.truth_ratio", "forget_quality", "forget.keyword", "holdout.keyword", "leak_share",
                       "over_forget_share"}


@pytest.mark.parametrize("family", FAMILIES)
def test_blocks_and_representations(cli: Any, rows: Any, folder: Path, tmp_path: Path, family: str) -> None:
    """rmu steers the output of a block and moves the MLP projections of three, under whatever names."""
    cli("forget", saved(folder, family), *rows.words, "--method", "rmu", "--steps", 1, "--batch-size", 4,
        "--out", tmp_path / "run")
    parameters = json.loads((tmp_path / "run" / "record.json").read_text())["parameters"]
    assert 0 < parameters["trainable"] < parameters["total"] / 2
