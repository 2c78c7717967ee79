"""Sparse autoencoders: trained on the spot, stored and read in the SAE-lens format, and refused in plain words."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from expunge.errors import ExpungeError, MissingError, UsageError
from expunge.methods.objectives.sae_guided import SAEGuided
from expunge.models.sites import Site, write
from expunge.models.sparse_autoencoder import (
    CONFIG,
    SAE,
    WEIGHTS,
    block_states,
    check_sae,
    fit_sae,
    load_sae,
    quality,
    save_sae,
    unpacked,
)
from expunge.testing.support import batch_of, made, memoriser, moved, same_random_state, small_task


@cache
def planted(count: int = 1000) -> torch.Tensor:
    """Sums of two of 24 directions in 16 dimensions, away from 0."""
    draw = torch.Generator().manual_seed(0)
    directions_FD = torch.nn.functional.normalize(torch.randn(24, 16, generator=draw), dim=-1)
    on_N2 = torch.stack([torch.randperm(24, generator=draw)[:2] for _ in range(count)])
    return 3 + (directions_FD[on_N2] * (1 + torch.rand(count, 2, 1, generator=draw))).sum(1)


FIT: dict[str, Any] = {"latents": 32, "k": 2, "steps": 150, "lr": 0.01, "batch": 128}


@pytest.fixture(scope="module")
def sae() -> SAE:
    return fit_sae(planted(), **FIT)


def test_it_describes_what_it_was_trained_on(sae: SAE) -> None:
    found = quality(sae, planted())
    assert found.explained > 0.8 and found.active <= 2 and found.dead < 0.5
    untrained = quality(fit_sae(planted(), latents=32, k=2, steps=0), planted())
    assert found.explained > untrained.explained + 0.3


def test_it_repeats_and_takes_no_gradient(sae: SAE) -> None:
    with same_random_state():
        again = fit_sae(planted(), **FIT)
    assert all(torch.equal(again.tensors()[name], value) for name, value in sae.tensors().items())
    assert not any(value.requires_grad for value in sae.tensors().values())
    larger = fit_sae(planted() * 1000, **FIT)
    assert quality(larger, planted() * 1000).explained == pytest.approx(quality(sae, planted()).explained, abs=0.02)


def test_a_tied_encoder_at_the_start() -> None:
    start = fit_sae(planted(), latents=32, k=2, steps=0)
    size = (planted() - planted().mean(0)).square().mean().sqrt()
    torch.testing.assert_close(start.w_enc_DF * size, start.w_dec_FD.T / size)
    torch.testing.assert_close(start.b_dec_D, planted().mean(0))


@pytest.mark.parametrize("centred", [True, False])
def test_activations_by_hand(centred: bool) -> None:
    w_enc_DF, bias_D = torch.tensor([[1.0, -1.0, 2.0], [0.0, 1.0, 1.0]]), torch.tensor([0.5, 0.0])
    state_D = torch.tensor([1.5, 1.0])
    pre_F = ((state_D - bias_D) if centred else state_D) @ w_enc_DF + torch.tensor([0.0, 0.0, -1.0])
    parts: tuple[Any, ...] = w_enc_DF, torch.tensor([0.0, 0.0, -1.0]), w_enc_DF.T.clone(), bias_D
    expected = {("standard", 0): pre_F.relu(), ("topk", 1): torch.tensor([0, 0, pre_F.max()]),
                ("jumprelu", 0): pre_F.relu() * (pre_F > 1.2)}
    for (architecture, k), wanted_F in expected.items():
        one = SAE(*parts, architecture=architecture, k=k, centred=centred,  # type: ignore[arg-type]
                  threshold_F=torch.full((3,), 1.2) if architecture == "jumprelu" else None)
        torch.testing.assert_close(one.encode(state_D), wanted_F)
        torch.testing.assert_close(one.decode(one.encode(state_D)), wanted_F @ w_enc_DF.T + bias_D)


@pytest.mark.parametrize("architecture", ["topk", "standard", "jumprelu"])
def test_it_is_read_as_it_was_stored(architecture: Any, sae: SAE, tmp_path: Path) -> None:
    threshold_F = torch.rand(32) if architecture == "jumprelu" else None
    one = SAE(**{**vars(sae), "architecture": architecture, "threshold_F": threshold_F, "centred": False,
                 "k": 2 if architecture == "topk" else 0})
    save_sae(one, tmp_path)
    assert set(load_file(tmp_path / WEIGHTS)) >= {"W_enc", "W_dec", "b_enc", "b_dec"}
    for again in (load_sae(tmp_path, 16), unpacked(json.loads(json.dumps(one.packed())))):
        assert torch.equal(again.encode(planted()), one.encode(planted()))
        assert torch.equal(again.decode(again.encode(planted())), one.decode(one.encode(planted())))


@pytest.mark.parametrize(("change", "says"), [
    ({"architecture": "gated"}, "of the kind 'gated'"),
    ({"normalize_activations": "layer_norm"}, "needs normalize_activations='layer_norm'"),
    ({"reshape_activations": "hook_z"}, "needs reshape_activations='hook_z'"),
    ({"k": None}, "a topk one without k"),
    ({"architecture": "jumprelu"}, "is not complete"),
])
def test_what_is_not_supported_is_refused(change: dict[str, Any], says: str, sae: SAE, tmp_path: Path) -> None:
    save_sae(sae, tmp_path)
    config = json.loads((tmp_path / CONFIG).read_text())
    (tmp_path / CONFIG).write_text(json.dumps({k: v for k, v in (config | change).items() if v is not None}))
    with pytest.raises(UsageError, match=says):
        load_sae(tmp_path, 16)


def test_broken_folders_are_refused(sae: SAE, tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="There is no sparse autoencoder"):
        check_sae(tmp_path)
    save_sae(sae, tmp_path)
    with pytest.raises(UsageError, match="for another model"):
        load_sae(tmp_path, 17)
    save_file({**load_file(tmp_path / WEIGHTS), "b_enc": torch.zeros(3)}, tmp_path / WEIGHTS)
    with pytest.raises(UsageError, match="does not fit together"):
        load_sae(tmp_path, 16)
    (tmp_path / WEIGHTS).write_bytes(b"half")
    with pytest.raises(UsageError, match="cannot be read"):
        load_sae(tmp_path, 16)
    for text in ("{", "[]"):
        (tmp_path / CONFIG).write_text(text)
        with pytest.raises(UsageError, match="cannot be read"):
            check_sae(tmp_path)


@pytest.mark.parametrize("nested", [False, True])
def test_one_of_another_block_is_refused(nested: bool, sae: SAE, tmp_path: Path) -> None:
    save_sae(sae, tmp_path)
    config = json.loads((tmp_path / CONFIG).read_text())
    for place, fits in (("blocks.3.hook_resid_post", True), ("blocks.4.hook_resid_pre", True),
                        ("blocks.2.hook_resid_post", False), ("blocks.3.hook_mlp_out", False)):
        named = {"hook_name": place}
        (tmp_path / CONFIG).write_text(json.dumps(config | ({"metadata": named} if nested else named)))
        if fits:
            load_sae(tmp_path, 16, 3)
        else:
            with pytest.raises(UsageError, match=f"trained on {place}"):
                load_sae(tmp_path, 16, 3)


def test_older_files_name_topk_by_its_function(sae: SAE, tmp_path: Path) -> None:
    save_sae(sae, tmp_path)
    (tmp_path / CONFIG).write_text(json.dumps({
        "architecture": "standard", "activation_fn_str": "topk", "activation_fn_kwargs": {"k": 3}}))
    assert check_sae(tmp_path) == ("topk", 3, True)


@pytest.mark.slow
def test_writing_the_same_latents_changes_nothing() -> None:
    """At a site of the slot sae: bit for bit, though the autoencoder alone is not exact."""
    subject, batch = moved(), batch_of(moved(), small_task().forget[:3])
    states_ND = block_states(memoriser(), small_task().retain[:20], 1)
    one = fit_sae(states_ND, latents=128, k=8, steps=50)
    assert quality(one, states_ND).explained < 0.99
    with torch.no_grad():
        before = subject.answers(batch).logits_NV
        for factor in (1.0, 0.5):
            with write(subject, Site(1, "sae", sae=one.at_site()), lambda given, z, f=factor: z * f):  # type: ignore
                after = subject.answers(batch).logits_NV
            assert torch.equal(before, after) is (factor == 1.0)


@pytest.mark.slow
def test_sae_guided_takes_a_stored_one_or_says_why_not(tmp_path: Path) -> None:
    task, stored = small_task(), unpacked(made("sae_guided")["sae"])
    save_sae(stored, tmp_path)
    source = SAEGuided(sae=str(tmp_path))
    assert source.problems(task) == []
    from expunge.methods.run_context import RunContext

    assert source.prepare(memoriser(), task, RunContext())["known"] == pytest.approx(made("sae_guided")["known"])
    (tmp_path / WEIGHTS).unlink()
    (problem,) = source.problems(task)
    assert isinstance(problem, ExpungeError) and "sae_weights.safetensors" in str(problem)
    nameless = task.model_copy(update={"retain": tuple(r.model_copy(update={"entity": ""}) for r in task.retain)})
    (problem,) = SAEGuided().problems(nameless)
    assert "No retain row names its entity" in str(problem)
