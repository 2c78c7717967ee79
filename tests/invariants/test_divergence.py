"""Divergences written in one piece against their slow twins."""

from __future__ import annotations

import pytest
import torch

from expunge.methods._lib import divergence
from expunge.models import fast
from expunge.models.fast import block_gradients
from expunge.models.reference import Likeliest


def slow(target_NV: torch.Tensor, logits_NV: torch.Tensor, relative: bool) -> torch.Tensor:
    """The definition, over whole arrays, by autograd; infinite target logits are left out by hand."""
    log_q, log_p = target_NV.log_softmax(-1), logits_NV.log_softmax(-1)
    q = log_q.exp()
    return torch.where(q > 0, q * ((log_q if relative else 0.0) - log_p), 0.0).sum(-1)


@pytest.mark.parametrize("relative", [True, False])
@pytest.mark.parametrize("n", [0, 1, 3, 40])
@pytest.mark.parametrize("forbidden", [False, True])
def test_value_and_gradient_are_those_of_the_definition(relative: bool, n: int, forbidden: bool,
                                                        monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(block_gradients, "CELLS", {"cpu": 50})  # a few rows at a time, the last block shorter
    torch.manual_seed(n)
    target, logits = torch.randn(n, 17) * 4, (torch.randn(n, 17) * 4).requires_grad_()
    if forbidden:
        target[:, 3] = -torch.inf
    weight = torch.rand(n)
    quick_way = divergence.kl if relative else divergence.cross_entropy
    quick = quick_way(target, logits)
    definition = slow(target, logits, relative) if not forbidden or not relative else quick.detach()
    torch.testing.assert_close(quick, definition, atol=1e-5, rtol=1e-5)
    found, = torch.autograd.grad((quick * weight).sum(), logits, retain_graph=True)
    again, = torch.autograd.grad((quick * weight).sum(), logits)
    assert torch.equal(found, again)
    q = target.softmax(-1)
    torch.testing.assert_close(found, weight[:, None] * (logits.softmax(-1) - q).detach(), atol=1e-5, rtol=1e-5)
    if not forbidden:
        expected, = torch.autograd.grad((slow(target, logits, relative) * weight).sum(), logits)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def coarsely(target_NV: torch.Tensor, logits_NV: torch.Tensor, count: int) -> torch.Tensor:
    """The definition: both distributions over the likeliest tokens and one for all others, by autograd."""
    q, p = target_NV.softmax(-1), logits_NV.softmax(-1)
    order = q.argsort(-1, descending=True)
    q, p = (torch.cat([x.gather(1, order[:, :count]), x.gather(1, order[:, count:]).sum(-1, keepdim=True)], 1)
            for x in (q, p))
    return torch.where(q > 0, q * (q.log() - p.log()), 0.0).sum(-1)


@pytest.mark.parametrize("count", [1, 5, 16, 17, 90])
@pytest.mark.parametrize("n", [0, 1, 40])
def test_coarse_value_and_gradient_are_those_of_the_definition(n: int, count: int,
                                                               monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(block_gradients, "CELLS", {"cpu": 50})
    torch.manual_seed(n)
    target, logits, weight = torch.randn(n, 17) * 4, (torch.randn(n, 17) * 4).requires_grad_(), torch.rand(n)
    quick = divergence.coarse_kl(Likeliest.of(target, count), logits)
    definition = coarsely(target, logits, count)
    torch.testing.assert_close(quick, definition, atol=1e-5, rtol=1e-5)
    for more in (False, True):
        slopes = [torch.autograd.grad((value * weight).sum(), logits, create_graph=more, retain_graph=True)[0]
                  for value in (quick, definition)]
        torch.testing.assert_close(*slopes, atol=1e-5, rtol=1e-5)
    bends = [torch.autograd.grad(slope.square().sum(), logits)[0] for slope in slopes]
    torch.testing.assert_close(*bends, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("gap", [80.0, 100.0, 500.0, float("inf")])
def test_a_coarse_gradient_is_finite_where_nothing_is_left_for_the_others(gap: float) -> None:
    target, logits = torch.randn(6, 50), torch.randn(6, 50)
    likeliest = Likeliest.of(target, 5)
    logits = logits.sub_(gap).scatter(1, likeliest.ids_NK, torch.randn(6, 5)).requires_grad_()
    found, = torch.autograd.grad(divergence.coarse_kl(likeliest, logits).sum(), logits)
    assert bool(found.isfinite().all())
    if gap < 600:
        exact = logits.detach().double().requires_grad_()
        expected, = torch.autograd.grad(coarsely(target.double(), exact, 5).sum(), exact)
        torch.testing.assert_close(found, expected.float(), atol=1e-5, rtol=1e-5)


def test_what_a_coarse_divergence_misses_is_that_of_the_others() -> None:
    target, logits = torch.randn(20, 31) * 3, torch.randn(20, 31) * 3
    for count in (1, 4, 20):
        likeliest = Likeliest.of(target, count)
        missing = divergence.kl(target, logits) - divergence.coarse_kl(likeliest, logits)
        others = [x.scatter(1, likeliest.ids_NK, -torch.inf) for x in (target, logits)]
        expected = likeliest.rest_N.exp() * torch.tensor(
            [divergence.kl(q[None, q > -torch.inf], p[None, q > -torch.inf]) for q, p in zip(*others, strict=True)])
        assert bool((missing > -1e-6).all())
        torch.testing.assert_close(missing, expected, atol=1e-5, rtol=1e-4)


def test_equal_distributions_have_no_divergence_and_no_gradient() -> None:
    logits = torch.randn(9, 31).requires_grad_()
    value = divergence.kl(logits, logits)
    assert torch.equal(value, torch.zeros(9))
    assert torch.equal(torch.autograd.grad(value.sum(), logits)[0], torch.zeros(9, 31))


def test_coarse_logits_are_raised() -> None:
    logits = torch.randn(5, 11, dtype=torch.bfloat16).requires_grad_()
    value = divergence.cross_entropy(torch.randn(5, 11), logits)
    assert value.dtype == torch.float32
    assert torch.autograd.grad(value.sum(), logits)[0].dtype == torch.bfloat16


@pytest.mark.parametrize("relative", [True, False])
def test_second_derivatives_are_those_of_the_definition(relative: bool) -> None:
    target, logits = torch.randn(3, 7), torch.randn(3, 7, requires_grad=True)

    def curvature(value: torch.Tensor) -> torch.Tensor:
        slope, = torch.autograd.grad(value.square().sum(), logits, create_graph=True)
        return torch.autograd.grad(slope.square().sum(), logits)[0]

    quick = (divergence.kl if relative else divergence.cross_entropy)(target, logits)
    torch.testing.assert_close(curvature(quick), curvature(slow(target, logits, relative)), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["kl", "cross_entropy", "coarse_kl"])
def test_the_plain_form_gives_the_same(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By autograd, with a forbidden token."""
    target, logits = torch.randn(30, 17) * 4, torch.randn(30, 17).requires_grad_()
    target[:, 3] = -torch.inf
    towards = Likeliest.of(target, 5) if name == "coarse_kl" else target
    found = []
    for off in ("", "1"):
        monkeypatch.setenv(fast.VARIABLE, off)
        value = getattr(divergence, name)(towards, logits)
        assert ("Reduced" in type(value.grad_fn).__name__) == (not off)
        found.append((value, *torch.autograd.grad(value.square().sum(), logits)))
    torch.testing.assert_close(found[0], found[1], atol=1e-5, rtol=1e-5)
