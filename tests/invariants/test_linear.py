"""Linear layers by numpy's products against PyTorch's own."""

from __future__ import annotations

import copy
import os
from contextlib import AbstractContextManager
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from torch import nn

from expunge.data.text_encoder import collate
from expunge.models import fast
from expunge.models.fast import linear
from expunge.models.fast.linear import Linear, use_numpy_products
from expunge.models.load import load_subject
from expunge.models.tiny import build_subject
from expunge.testing.support import CONFIG, fresh, memoriser, moved, small_task
from tests.invariants.test_passes import LENGTHS, made

SIZES = ((1, 16, 16), (7, 24, 40), (16, 192, 512), (33, 512, 192), (250, 48, 1000))
"""Positions, inputs, outputs: one position, odd numbers, even ones, wide and narrow layers."""


@pytest.fixture(autouse=True)
def everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """As from the command line, whatever the processor and however small the product."""
    monkeypatch.setattr(fast, "_process_wide", True)
    monkeypatch.setattr(linear, "_is_faster", lambda: True)
    monkeypatch.setattr(linear, "LEAST", 1)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)


def plainly() -> AbstractContextManager[object]:
    """The slow twin: PyTorch's own products."""
    return patch.dict(os.environ, {fast.VARIABLE: "numpy_products"})


def layer(inputs: int, outputs: int, bias: bool = True) -> nn.Sequential:
    torch.manual_seed(inputs)
    made = nn.Sequential(nn.Linear(inputs, outputs, bias=bias))
    use_numpy_products(made)
    assert type(made[0]) is Linear
    return made


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", SIZES)
def test_values_and_gradients_are_those_of_the_plain_layer(shape: tuple[int, int, int], bias: bool) -> None:
    positions, inputs, outputs = shape
    quick = layer(inputs, outputs, bias)
    x = torch.randn(1, positions, inputs, requires_grad=True)
    weight = torch.randn(1, positions, outputs)
    wanted = (x, *quick.parameters())
    with plainly():
        slow = quick(x)
        slow_gradients = torch.autograd.grad((slow * weight).sum(), wanted)
    found = quick(x)
    if not bias:
        assert "Product" in type(found.grad_fn).__name__ and "Product" not in type(slow.grad_fn).__name__
    torch.testing.assert_close(found, slow, atol=1e-5, rtol=1e-5)
    for a, b in zip(torch.autograd.grad((found * weight).sum(), wanted), slow_gradients, strict=True):
        assert a.is_contiguous()
        assert float((a - b).norm()) <= 1e-5 * float(b.norm())


def test_gradients_of_one_side_alone_and_of_none() -> None:
    quick = layer(24, 40, bias=False)
    x = torch.randn(5, 24, requires_grad=True)
    whole = torch.autograd.grad(quick(x).square().sum(), (x, quick[0].weight))
    assert torch.equal(torch.autograd.grad(quick(x).square().sum(), x)[0], whole[0])
    assert torch.equal(torch.autograd.grad(quick(x.detach()).square().sum(), quick[0].weight)[0], whole[1])
    with torch.no_grad():
        assert not quick(x).requires_grad


def test_what_it_gives_may_be_written_to() -> None:
    """Some families clamp or scale a projection in place."""
    quick, x = layer(24, 40, bias=False), torch.randn(2, 5, 24)
    found = quick(x).clamp_(-0.5, 0.5).mul_(2)
    with plainly():
        slow = quick(x).clamp_(-0.5, 0.5).mul_(2)
    weight = quick[0].weight
    torch.testing.assert_close(torch.autograd.grad(found.square().sum(), weight),
                               torch.autograd.grad(slow.square().sum(), weight), atol=1e-5, rtol=1e-5)


def test_inputs_may_have_any_strides_and_values() -> None:
    quick = layer(24, 40, bias=False)
    x = torch.randn(24, 6)
    ways = {"columns": x.T, "every other": torch.randn(6, 48)[:, ::2], "one row": torch.randn(1, 24).expand(6, 24),
            "infinite": torch.tensor([torch.inf, -torch.inf]).repeat(6, 12), "single": torch.randn(24)}
    for name, lying in ways.items():
        with plainly():
            slow = quick(lying)
        torch.testing.assert_close(quick(lying), slow, atol=1e-5, rtol=1e-5, equal_nan=True, msg=name)
    mapped = torch.vmap(quick)(torch.randn(3, 5, 24, generator=torch.Generator().manual_seed(0)))
    with plainly():
        same = quick(torch.randn(3, 5, 24, generator=torch.Generator().manual_seed(0)))
    torch.testing.assert_close(mapped, same, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("lengths", LENGTHS)
def test_a_model_gives_the_same_answers_and_gradients(lengths: list[int]) -> None:
    """With padding, odd lengths and rows of a single supervised token; one side may be empty."""
    subject = fresh(moved())
    batch, none = collate(made(lengths), subject.encoder.pad_id), collate([], subject.encoder.pad_id)
    parameters = tuple(subject.model.requires_grad_(True).parameters())

    def both() -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
        found = subject.answers_of({"forget": batch, "retain": none})
        assert len(found["retain"].logp_N) == 0
        return found["forget"].logits_NV, torch.autograd.grad(found["forget"].logp_N.sum(), parameters)

    logits_NV, slopes = both()
    with plainly():
        slow_NV, slow_gradients = both()
    torch.testing.assert_close(logits_NV, slow_NV, atol=1e-5, rtol=1e-5)
    for a, b in zip(slopes, slow_gradients, strict=True):
        assert float((a - b).norm()) <= 1e-5 * float(b.norm())


def test_differentiates_twice() -> None:
    quick = layer(6, 5, bias=False).double().float()
    x = torch.randn(3, 6, requires_grad=True)

    def curvature() -> torch.Tensor:
        slope, = torch.autograd.grad(quick(x).pow(3).sum(), x, create_graph=True)
        return torch.cat([s.flatten() for s in torch.autograd.grad(slope.square().sum(), (x, quick[0].weight))])

    found = curvature()
    with plainly():
        torch.testing.assert_close(found, curvature(), atol=1e-5, rtol=1e-5)


def test_leaves_other_numbers_and_modules_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    quick, x = layer(24, 40, bias=False), torch.randn(5, 24)
    monkeypatch.setattr(linear, "_Product", None)
    for kind in (torch.float64, torch.bfloat16):
        made = copy.deepcopy(quick).to(kind)
        assert type(made[0]) is Linear
        assert torch.equal(made(x.to(kind)), nn.functional.linear(x.to(kind), made[0].weight))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert quick(x).dtype is torch.bfloat16

    class Own(nn.Linear):
        """Somebody else's layer."""

    model = nn.Sequential(Own(4, 4), nn.Embedding(3, 4))
    use_numpy_products(model)
    assert [type(m) for m in model] == [Own, nn.Embedding]


def test_leaves_other_processors_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear, "_is_faster", lambda: False)
    model = nn.Sequential(nn.Linear(4, 4))
    use_numpy_products(model)
    assert type(model[0]) is nn.Linear


def test_a_library_leaves_layers_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the command line swaps their class, and EXPUNGE_PLAIN=1 has the last word."""
    assert any(type(m) is Linear for m in fresh(moved()).model.modules())
    monkeypatch.setenv(fast.VARIABLE, "1")
    assert not any(type(m) is Linear for m in rebuilt().modules())
    monkeypatch.delenv(fast.VARIABLE)
    monkeypatch.setattr(fast, "_process_wide", False)
    assert not any(type(m) is Linear for m in rebuilt().modules())
    quick, x = layer(24, 40, bias=False), torch.randn(5, 24)
    assert torch.equal(quick(x), nn.functional.linear(x, quick[0].weight)), "a layer that was swapped does as before"


def rebuilt() -> nn.Module:
    """A model made now."""
    made: nn.Module = build_subject(CONFIG, ["some text"]).model
    return made


def test_several_threads_keep_pytorchs_products(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(linear, "_Product", None)
    quick, x = layer(24, 40), torch.randn(5, 24)
    assert torch.equal(quick(x), nn.functional.linear(x, quick[0].weight, quick[0].bias))


@pytest.mark.parametrize(("threads", "core", "quicker"), [(1, "SkylakeX", True), (2, "SkylakeX", False),
                                                          (1, "Haswell", False)])
def test_asks_what_numpy_would_do(threads: int, core: str, quicker: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    import threadpoolctl

    monkeypatch.undo()
    told = [{"internal_api": "openblas", "num_threads": threads, "architecture": core}, {"internal_api": "openmp"}]
    monkeypatch.setattr(threadpoolctl, "threadpool_info", lambda: told)
    monkeypatch.setattr(linear, "_is_amd", lambda: True)
    assert linear._is_faster.__wrapped__() is quicker
    monkeypatch.setattr(linear, "_is_amd", lambda: False)
    assert linear._is_faster.__wrapped__() is False


def test_small_products_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear, "LEAST", 5 * 24 * 40 + 1)
    monkeypatch.setattr(linear, "_Product", None)
    quick, x = layer(24, 40, bias=False), torch.randn(5, 24)
    assert torch.equal(quick(x), nn.functional.linear(x, quick[0].weight))


def test_a_saved_model_does_not_show_it(tmp_path: Path) -> None:
    """The same names and bytes, and a model that plain transformers loads."""
    subject = fresh(moved())
    use_numpy_products(subject.model)
    assert any(type(m) is Linear for m in subject.model.modules())
    subject.save(tmp_path / "quick")
    assert load_subject(tmp_path / "quick").fingerprint == moved().fingerprint


def test_a_model_says_the_same() -> None:
    subject = fresh(memoriser())
    plain = fresh(memoriser())
    use_numpy_products(subject.model)
    prompts = [subject.encoder.prompt(r) for r in small_task().forget]
    with plainly():
        said = plain.generate(prompts, 16)
    assert subject.generate(prompts, 16) == said
