"""Eight rows at once and eight times one row are the same step."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file


@pytest.fixture(scope="module")
def uneven(tmp_path_factory: pytest.TempPathFactory) -> tuple[object, ...]:
    """Rows of very different lengths, so that a mean of means would show."""
    folder = tmp_path_factory.mktemp("uneven")
    words: list[object] = []
    for split in ("forget", "retain"):
        path = folder / f"{split}.jsonl"
        path.write_text("".join(json.dumps({"question": f"{split} {i}?", "answer": "so " * (1 + 5 * (i % 4)) + str(i)})
                                + "\n" for i in range(20)), encoding="utf-8")
        words += [f"--{split}", path]
    return tuple(words)


@pytest.mark.parametrize("scope", ["all", "lora(rank=4)"])
@pytest.mark.parametrize("method", ["npo + retain_kl", "grad_diff", "simnpo", "idk", "dpo + retain_nll",
                                    "undial + retain_nll"])
def test_accumulation(cli: Any, model: Path, uneven: tuple[object, ...], tmp_path: Path, method: str,
                      scope: str) -> None:
    for name, options in (("8x1", (8, 1)), ("1x8", (1, 8)), ("3x2", (4, 2))):
        cli("forget", model, *uneven, "--method", f"{method} + {scope}", "--steps", 4, "--lr", "1e-4", "--keep", "last",
            "--batch-size", options[0], "--accumulate", options[1], "--out", tmp_path / name)
    file = "model.safetensors" if scope == "all" else "adapter_model.safetensors"
    one = load_file(tmp_path / "8x1" / "model" / file)
    steps = [json.loads(line) for line in (tmp_path / "8x1" / "steps.jsonl").read_text().splitlines()]
    for name in ("1x8", "3x2"):
        other = load_file(tmp_path / name / "model" / file)
        worst = max(float((one[key] - other[key]).abs().max()) for key in one)
        again = [json.loads(line) for line in (tmp_path / name / "steps.jsonl").read_text().splitlines()]
        for a, b in zip(steps, again, strict=True):
            assert b["grad_norm"] == pytest.approx(a["grad_norm"], rel=1e-4)
            assert b["loss"] == pytest.approx(a["loss"], rel=1e-5, abs=1e-6)
            assert b["terms"] == pytest.approx(a["terms"], rel=1e-5, abs=1e-6)
        assert worst < 1e-6, worst
