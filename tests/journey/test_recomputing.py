"""Gradient checkpointing changes what stands in memory, and no weight."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from expunge.data.text_encoder import collate
from expunge.errors import UsageError
from expunge.models.language import CausalLM
from expunge.models.load import load_subject
from expunge.records.task import Example
from expunge.training.recomputing import recomputing
from expunge.training.step import Step


@pytest.fixture
def subject(model: Path) -> CausalLM:
    return load_subject(model)


def weights(out: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for file in (out / "model").glob("*.safetensors") for name, tensor in load_file(file).items()}


@pytest.mark.parametrize("method", ["npo + retain_kl", "npo + retain_kl + lora(rank=2)", "rmu", "rmu + lora(rank=2)",
                                    "npo + retain_kl + gu + sam(rho=0.01)", "idk + retain_nll + layers(index='1-1')"])
def test_the_same_weights(cli: Any, model: Path, rows: Any, tmp_path: Path, method: str) -> None:
    words = ("forget", model, *rows.words, "--method", method, "--steps", 4, "--batch-size", 2, "--accumulate", 2,
             "--lr", "1e-3", "--keep", "last")
    cli(*words, "--out", tmp_path / "kept")
    cli(*words, "--gradient-checkpointing", "--out", tmp_path / "again")
    kept, again = weights(tmp_path / "kept"), weights(tmp_path / "again")
    before = load_file(model / "model.safetensors")
    assert kept.keys() == again.keys()
    assert max(float((kept[n] - again[n]).abs().max()) for n in kept) < 1e-6
    moved = {n for n in again if not torch.equal(again[n], before.get(n, torch.zeros_like(again[n])))}
    assert moved and ("lora" not in method or any("lora_B" in n for n in moved))


def test_training_trains_too(cli: Any, model: Path, rows: Any, tmp_path: Path) -> None:
    words = ("train", model, *rows.words[:4], "--steps", 3, "--batch-size", 4, "--lr", "1e-3")
    cli(*words, "--out", tmp_path / "kept")
    cli(*words, "--gradient-checkpointing", "--out", tmp_path / "again")
    kept, again = weights(tmp_path / "kept"), weights(tmp_path / "again")
    assert max(float((kept[n] - again[n]).abs().max()) for n in kept) < 1e-6


def test_blocks_run_again_and_only_while_it_lasts(subject: CausalLM) -> None:
    row = subject.encoder.encode(Example(id="a", prompt="Where?", answer="Here it is."))
    batch = collate([row, row], subject.encoder.pad_id)
    runs: list[int] = []
    inner = subject.model.model.layers[0].mlp
    handle = inner.register_forward_pre_hook(lambda *_: runs.append(1))

    def both() -> list[tuple[torch.Tensor, int]]:
        """Gradient of a whole pass and of one that ends early, with the runs of the block on the way back."""
        found = []
        for loss in (-subject.answers(batch).logp_N.sum(), subject.hidden(batch, 1).square().sum()):
            runs.clear()
            found.append((torch.autograd.grad(loss, [inner.up_proj.weight])[0], len(runs)))
        return found

    subject.model.train()
    plain = both()
    with recomputing(subject, True):
        assert subject.recomputes
        again = both()
        assert subject.recomputes
    assert [n for _, n in plain] == [0, 0] and [n for _, n in again] == [1, 1]
    assert all(torch.allclose(x, y, atol=1e-6) for (x, _), (y, _) in zip(plain, again, strict=True))
    handle.remove()
    assert not subject.recomputes and subject.bare


def test_it_ends_with_an_error_too(subject: CausalLM) -> None:
    with pytest.raises(ZeroDivisionError), recomputing(subject, True):
        _ = 1 / 0
    assert not subject.recomputes and subject.bare


def test_a_model_without_it_is_refused(subject: CausalLM, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(subject.model), "supports_gradient_checkpointing", False)
    with recomputing(subject, False):
        pass
    with pytest.raises(UsageError, match="does not support gradient checkpointing"), recomputing(subject, True):
        pass


@pytest.mark.parametrize("verb", ["forget", "train"])
def test_that_is_known_before_the_run(cli: Any, model: Path, rows: Any, subject: CausalLM, tmp_path: Path, verb: str,
                                      monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(subject.model), "supports_gradient_checkpointing", False)
    words = (verb, model, *rows.words[:4], *(("--method", "ga") if verb == "forget" else ()), "--steps", 1,
             "--gradient-checkpointing", "--out", tmp_path / "run")
    for more in ((), ("--dry-run",)):
        assert "does not support gradient checkpointing" in cli(*words, *more, code=3).err
    assert not (tmp_path / "run").exists()


def test_perturbed_activations_are_refused(cli: Any, model: Path, rows: Any, subject: CausalLM, tmp_path: Path) -> None:
    words = ("forget", model, *rows.words, "--method", "npo + retain_kl + lat(steps=1)", "--steps", 1)
    for more in ((), ("--dry-run",)):
        said = cli(*words, "--gradient-checkpointing", *more, "--out", tmp_path / "run", code=3)
        assert "lat does not go with gradient checkpointing" in said.err and not (tmp_path / "run").exists()
    # Whoever writes a perturbation and does not say so is stopped where it would be lost.
    with recomputing(subject, True), pytest.raises(UsageError, match="A perturbation of activations does not go with"):
        Step(subject, {}).inside("forget", nullcontext)


def test_the_precision_is_recorded_and_kept(cli: Any, model: Path, rows: Any, tmp_path: Path,
                                            monkeypatch: pytest.MonkeyPatch) -> None:
    words = ("forget", model, *rows.words, "--method", "npo + retain_nll", "--steps", 2, "--out", tmp_path / "run")
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp16")
    assert "would need a loss scaler" in cli(*words, code=2).err and not (tmp_path / "run").exists()
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    cli(*words)
    settings = json.loads((tmp_path / "run" / "record.json").read_text())["settings"]
    assert settings["mixed_precision"] == "no" and settings["gradient_checkpointing"] is False
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    assert "settings.mixed_precision was" in cli(*words, "--resume", code=2).err
