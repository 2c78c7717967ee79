"""The closed-form solver beside what it solves, the projector, and the covariance with its cache.

Legend: K inputs, D outputs, M requests, N tokens.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from expunge.data.text_encoder import collate
from expunge.errors import UsageError
from expunge.methods._lib import least_squares
from expunge.methods._lib.importance import largest
from expunge.methods._lib.key_value import Mentions
from expunge.methods._lib.least_squares import cached_covariances, covariances, null_projector, solve_edit
from expunge.methods._lib.output_projection import add_to_weight, inputs_of, mlp_out
from expunge.models.tiny import build_subject
from expunge.testing.support import CONFIG, fresh, hooks, memoriser, moved, small_task

K, D, M = 12, 5, 3


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def projector(rank: int) -> Tensor:
    basis, _ = torch.linalg.qr(draw(K, rank, seed=5))
    return basis @ basis.T


def minimum(keys: Tensor, residual: Tensor, penalty: Tensor, within: Tensor, previous: Tensor) -> Tensor:
    """argmin ||dW K - R||^2 + ||dW Kp||^2 + tr(dW penalty dW^T) over dW = A B^T, as one dense system in A."""
    basis = torch.linalg.svd(within)[0][:, : int(torch.linalg.matrix_rank(within))]
    inner = basis.T @ (keys @ keys.T + previous + penalty) @ basis
    return torch.linalg.solve(inner, basis.T @ keys @ residual.T).T @ basis.T


@pytest.mark.parametrize("rank", [4, 9, K])
@pytest.mark.parametrize("penalty", [1e-2, 1.0, 30.0])
def test_it_is_the_least_squares_solution_within_the_projection(rank: int, penalty: float) -> None:
    keys, residual, within = draw(K, M), draw(D, M, seed=1), projector(rank)
    earlier = draw(K, 2, seed=2)
    previous = earlier @ earlier.T
    found = solve_edit(keys, residual, penalty=penalty, projection_KK=within, previous_KK=previous)
    slow = minimum(keys, residual, penalty * torch.eye(K, dtype=torch.float64), within, previous)
    torch.testing.assert_close(found, slow, atol=1e-9, rtol=1e-7)
    torch.testing.assert_close(found @ within, found, atol=1e-9, rtol=1e-9)
    assert torch.linalg.matrix_rank(found, rtol=1e-9) == min(M, rank)


def test_a_symmetrised_system_would_be_another() -> None:
    """The left side is P K K^T + lambda I; its symmetric part has another solution."""
    keys, residual, within = draw(K, M), draw(D, M, seed=1), projector(6)
    left = within @ keys @ keys.T + torch.eye(K, dtype=torch.float64)
    wrong = torch.linalg.solve((left + left.T) / 2, within @ keys @ residual.T).T
    assert float((wrong - solve_edit(keys, residual, projection_KK=within)).norm()) > 1e-2


def test_memit_is_a_covariance_penalty_without_projection() -> None:
    """R K^T (lambda C + K K^T)^-1."""
    keys, residual, generic = draw(K, M), draw(D, M, seed=1), draw(K, 40, seed=3)
    covariance = generic @ generic.T / 40
    found = solve_edit(keys, residual, penalty=15.0, covariance_KK=covariance)
    direct = residual @ keys.T @ torch.linalg.inv(15.0 * covariance + keys @ keys.T)
    torch.testing.assert_close(found, direct, atol=1e-10, rtol=1e-8)


def test_limits() -> None:
    """No penalty and room enough: the request is met. A large one: nothing moves. Held keys: they stay."""
    keys, residual = draw(K, M), draw(D, M, seed=1)
    torch.testing.assert_close(solve_edit(keys, residual, penalty=1e-9) @ keys, residual, atol=1e-6, rtol=1e-6)
    assert float(solve_edit(keys, residual, penalty=1e9).norm()) < 1e-6
    earlier = draw(K, 2, seed=2)
    held = solve_edit(keys, residual, penalty=1e-6, previous_KK=1e6 * earlier @ earlier.T)
    assert float((held @ earlier).norm()) < 1e-4
    assert solve_edit(keys.float(), residual.float()).dtype == torch.float64


def test_projector_keeps_the_small_directions() -> None:
    basis, _ = torch.linalg.qr(draw(K, K))
    values = torch.logspace(-6, 1, K, dtype=torch.float64)
    covariance = basis * values @ basis.T
    found = null_projector(covariance, 1e-2)
    small = basis[:, values < 1e-2]
    torch.testing.assert_close(found, small @ small.T, atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(found @ found, found, atol=1e-12, rtol=1e-12)
    relative = null_projector(covariance, 1e-2 / float(values.mean()), relative=True)
    torch.testing.assert_close(relative, found)
    torch.testing.assert_close(null_projector(100 * covariance, 1e-2 / float(values.mean()), relative=True), found)
    with pytest.raises(UsageError, match="below the threshold"):
        null_projector(covariance, 1e-9)


def test_covariance_is_the_mean_over_real_tokens() -> None:
    """Beside one row at a time, so that padding cannot have counted."""
    subject = fresh(moved())
    rows = [subject.encoder.encode(r) for r in (*small_task().retain[:9], *small_task().background[:4])]
    found = covariances(subject, [0, 2], rows, batch_size=5)
    for block in (0, 2):
        keys = []
        with torch.no_grad():
            for row in rows:
                keys.append(inputs_of(subject, [block], collate([row], 0))[block][0].double())
        joint_NK = torch.cat(keys)
        torch.testing.assert_close(found[block], joint_NK.T @ joint_NK / len(joint_NK), atol=1e-7, rtol=1e-5)
    assert hooks(subject) == []


def test_covariances_are_kept_by_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    subject = fresh(moved())
    rows = [subject.encoder.encode(r) for r in small_task().retain[:6]]
    blocks = [0, 1]
    runs: list[int] = []
    real = least_squares.covariances
    monkeypatch.setattr(least_squares, "covariances", lambda s, m, r: runs.append(len(m)) or real(s, m, r))
    first = cached_covariances(subject, blocks, rows, tmp_path)
    again = cached_covariances(subject, blocks, rows[::-1], tmp_path)
    assert runs == [2] and all(torch.equal(first[n], again[n]) for n in blocks)
    next((tmp_path / "covariances").glob("*.pt")).write_bytes(b"cut short")
    mended = cached_covariances(subject, blocks, rows, tmp_path)
    assert runs == [2, 1] and all(torch.equal(first[n], mended[n]) for n in blocks)
    cached_covariances(subject, blocks, rows[:4], tmp_path)
    assert subject.fingerprint  # remembered from before the weights change, as in a run of two stages
    with torch.no_grad():
        subject.model.get_input_embeddings().weight[0] += 1
    cached_covariances(subject, blocks, rows, tmp_path)
    assert runs == [2, 1, 2, 2]
    (tmp_path / "file").write_text("")
    assert cached_covariances(subject, blocks, rows, tmp_path / "file").keys() == set(blocks)


def test_a_name_is_found_at_its_last_token() -> None:
    subject, decode = memoriser(), memoriser().encoder.processor.decode
    for name in {r.entity for r in small_task().training_rows("full")}:
        found = Mentions(subject, name)
        for row, at in zip(found.batch.rows, found.at_B.tolist(), strict=True):
            text = decode(row.ids[: at + 1])
            assert text.endswith(name) and name not in decode(row.ids[:at]), (name, text)
    twice = Mentions(subject, "Anna", ("Anna met {}",))
    assert decode(twice.batch.rows[0].ids[: int(twice.at_B) + 1]).count("Anna") == 2


def test_output_projections_of_families() -> None:
    """And a change lands in the output, whichever way round the weight is kept."""
    families = {"llama": CONFIG, "gpt2": {"model_type": "gpt2", "n_embd": 32, "n_layer": 2, "n_head": 2},
                "gpt_neox": {"model_type": "gpt_neox", "hidden_size": 32, "intermediate_size": 48,
                             "num_hidden_layers": 2, "num_attention_heads": 2}}
    for family, config in families.items():
        subject = build_subject(config | {"vocab_size": 512}, ["some text"])
        name, module = mlp_out(subject, 1)
        keys = draw(2, module.weight.numel() // subject.model.config.hidden_size).float()
        change = draw(subject.model.config.hidden_size, keys.shape[1], seed=1)
        with torch.no_grad():
            before = module(keys)
            add_to_weight(module, change)
            torch.testing.assert_close(module(keys) - before, keys @ change.float().T, atol=1e-3, rtol=1e-3), family
        assert name.split(".")[-1] in ("down_proj", "c_proj", "dense_4h_to_h")


@pytest.mark.parametrize("density", [0.0, 1e-3, 0.3, 0.5, 0.9, 1.0])
def test_the_largest_share_is_exact_with_ties(density: float) -> None:
    values = {"a": draw(40, 7).abs().float(), "b": torch.zeros(50), "c": torch.full((30,), 0.5),
              "d": torch.tensor([torch.inf, 1e-42, 3.0])}
    masks = largest(values, density)
    inside = torch.cat([v[masks[n]].flatten() for n, v in values.items()])
    outside = torch.cat([v[~masks[n]].flatten() for n, v in values.items()])
    assert len(inside) == max(round(density * (len(inside) + len(outside))), 1)
    if len(inside) and len(outside):
        assert inside.min() >= outside.max()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_largest_share_has_the_shape_of_values_of_any_type(dtype: torch.dtype) -> None:
    values = {"a": draw(40, 7).abs().to(dtype), "b": draw(9, seed=1).abs().to(dtype)}
    masks, rounded = largest(values, 0.3), largest({n: v.float() for n, v in values.items()}, 0.3)
    for name, mask in masks.items():
        assert mask.shape == values[name].shape and torch.equal(mask, rounded[name])
