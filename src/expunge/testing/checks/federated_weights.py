"""Promises about what clients send and are held to: products of adapters, and the proximal term."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from expunge.federated.aggregate import Products, average, pairs_of, split
from expunge.federated.base import ServerRule
from expunge.federated.clients import held_near
from expunge.models.scope import Scope

from ..support import fresh, weights
from .base import check
from .federated import FAST, learns, run, told


@check
def averages_products(plugin: type[ServerRule]) -> None:
    """Random adapters of two clients: the best rank-2 part of the mean product, which the mean of factors misses."""
    generator = torch.Generator().manual_seed(1)
    draw = [torch.randn(shape, generator=generator) for shape in ((2, 6), (5, 2), (2, 6), (5, 2))]
    names = ("x.lora_A.default.weight", "x.lora_B.default.weight")
    clients = [dict(zip(names, draw[i: i + 2], strict=True)) for i in (0, 2)]
    space = Products(pairs_of(names))
    mean = average([space.of(one)["x"] for one in clients], [0.5, 0.5])
    back = space.back({"x": mean}, clients)
    product = back[names[1]].double() @ back[names[0]].double()
    u, s, v = torch.linalg.svd(mean)
    best = u[:, :2] * s[:2] @ v[:2]
    assert torch.allclose(product, best, atol=1e-5) and space.cut == pytest.approx(
        float((mean - best).norm() / mean.norm()), abs=1e-5)
    down, up = (average([one[name] for one in clients], [0.5, 0.5]) for name in names)
    missed = float((mean - up @ down).norm() / mean.norm())
    assert missed > 1.2 * space.cut, "the mean of the factors is another update"
    shared = [{names[0]: draw[0], names[1]: up} for up in (draw[1], draw[3])]
    mean = average([space.of(one)["x"] for one in shared], [0.5, 0.5])
    back = space.back({"x": mean}, shared)
    assert torch.allclose(back[names[1]].double() @ back[names[0]].double(), mean, atol=1e-5) and space.cut < 1e-6
    assert all(torch.equal(space.back(space.of(one), clients)[n], one[n]) for one in clients for n in names)
    down, up = split(torch.outer(torch.ones(5), torch.ones(6)).double(), draw[0], draw[1])
    assert torch.allclose(down @ down.T, torch.eye(2).double(), atol=1e-9) and float(up[:, 1].norm()) < 1e-9
    _adapters_of_clients(plugin)


def _adapters_of_clients(plugin: type[ServerRule]) -> None:
    """The same through a run: what the model adds after a round is the mean of what its clients added."""
    for adapters in ("product", "shared"):
        generator, sent = torch.Generator().manual_seed(2), list[Mapping[str, Tensor]]()

        def say(i: int, n: int, theta: Mapping[str, Tensor], generator: Any = generator,
                sent: list[Mapping[str, Tensor]] = sent) -> Mapping[str, Tensor]:
            sent.append({k: value + 0.1 * torch.randn(value.shape, generator=generator) if "lora_B" in k else value
                         for k, value in theta.items()})
            return sent[-1]

        rule = told(plugin, say, clients=2, rounds=1, client=1, adapters=adapters)
        subject, figures = run(learns(rule, f"{FAST} + lora(rank=2)"))
        after = weights(subject)
        shares = list(figures["rounds"][0]["weights"].values())
        for up in [name for name in after if "lora_B" in name]:
            down = up.replace("lora_B", "lora_A")
            wanted = sum(w * one[up] @ one.get(down, after[down]) for w, one in zip(shares, sent, strict=True))
            assert torch.allclose(after[up] @ after[down], torch.as_tensor(wanted), atol=1e-5), up
        assert all(("lora_A" in name) is False for name in sent[0]) is (adapters == "shared")


@check
def penalises_distance(plugin: type[ServerRule]) -> None:
    """Value and gradient by hand; 0 at the start, gone afterwards, and added to a penalty that is there."""
    subject = fresh()
    scope = Scope(subject, tuple(n for n, _ in subject.model.named_parameters())[:2])
    with held_near(scope, 0.5):
        first = scope.penalty()
        assert first is not None and float(first.detach()) == 0
        with torch.no_grad():
            for parameter in scope.parameters.values():
                parameter.add_(0.1)
        moved = scope.penalty()
        assert moved is not None
        count = sum(p.numel() for p in scope.parameters.values())
        assert float(moved.detach()) == pytest.approx(0.25 * 0.01 * count, rel=1e-3)
        for part in torch.autograd.grad(moved, list(scope.parameters.values())):
            assert torch.allclose(part, torch.full_like(part, 0.05), atol=1e-5)
    assert scope.penalty() is None
    assert (plugin().mu, plugin(mu=0.0).mu) == (0.01, 0.0)
