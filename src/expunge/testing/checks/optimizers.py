"""Promises of optimizers: what a step does to weights, and where gradients come from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from torch import Tensor

from expunge.methods.base import Optimizer
from expunge.methods.optimizers.sign_adam import quantised
from expunge.methods.stage import StageMethod
from expunge.training.gradients import gradients
from expunge.training.zeroth import Probing, zeroth

from ..support import (
    batches_of,
    cosine,
    draws_of,
    flat,
    fresh,
    gradient,
    memoriser,
    moved,
    small_task,
    stage_of,
    train,
    trained,
    weights,
)
from .base import check, term


def stepped(optimizer: Optimizer, grads: Sequence[Tensor], times: int = 1) -> list[Tensor]:
    """What `times` steps with these gradients change in the memoriser's weights."""
    subject = fresh()
    parameters = list(subject.model.parameters())
    made = optimizer.build(parameters)
    before = [p.detach().clone() for p in parameters]
    for _ in range(times):
        for parameter, part in zip(parameters, grads, strict=True):
            parameter.grad = part.clone()
        made.step()
    return [p.detach() - b for p, b in zip(parameters, before, strict=True)]


@check
def moves_by_rate(plugin: type[Optimizer]) -> None:
    """|after - before| = lr for every weight whose gradient is not 0, to the rounding of the sum."""
    grads = list(gradient("npo + retain_nll", moved(), original=memoriser()).total())
    for times in (1, 3):
        moves = flat(stepped(plugin(lr=2**-8, weight_decay=0.0), grads, times))
        live = flat(grads) != 0
        assert float(live.double().mean()) > 0.99
        assert float((moves.abs() - times * 2**-8).abs()[live].max()) < 1e-6
        assert torch.equal(moves.sign()[live], -flat(grads).sign()[live])
    decayed = stepped(plugin(lr=2**-8, weight_decay=0.5), [0 * g for g in grads])
    start = [p.detach() for p in memoriser().model.parameters()]
    torch.testing.assert_close(flat(decayed), -(2**-8) * 0.5 * flat(start), rtol=1e-3, atol=1e-7)


@check(trains=True)
def unlearns(plugin: type[Optimizer], lr: float, options: dict[str, Any] | None = None, steps: int = 60) -> None:
    """Forget loss rises by more than two nats, retain loss by less than a tenth of that."""
    recipe = f"npo + retain_nll + {term(plugin, (options or {}) | {'warmup': 0.0})}"
    readings = trained(recipe, steps=steps, lr=lr, watch=steps).readings
    forget, retain = (readings[-1][i] - readings[0][i] for i in (0, 1))
    assert forget > 2 and retain < 0.1 * forget, readings


@check(trains=True)
def many_bits_are_adam(plugin: type[Optimizer], bits: int) -> None:
    """The update is Adam's once levels are fine."""
    curve = "lr=1e-3, warmup=0, eps=1e-4"
    start = weights(memoriser())
    moves = []
    for optimizer in (f"{plugin.card.name}(bits={bits}, {curve})", f"adamw({curve})"):
        end = weights(train(f"npo + retain_nll + {optimizer}", steps=4).subject)
        moves.append([end[n] - start[n] for n in start])
    assert cosine(*moves) > 0.9999
    coarse = weights(train(f"npo + retain_nll + {plugin.card.name}(bits=1, {curve})", steps=4).subject)
    assert cosine([coarse[n] - start[n] for n in start], moves[1]) < 0.99


@check
def levels_are_even(plugin: type[Optimizer]) -> None:
    """2^N levels, evenly spaced, symmetric; each value goes to the nearest; 0 stays."""
    values = torch.cat([torch.linspace(-2, 2, 801), torch.zeros(1)])
    for bits in (2, 3):
        found = quantised(values, bits)
        levels = torch.linspace(-2, 2, 2**bits)
        assert torch.allclose(found[values != 0].unique(), levels, atol=1e-6)
        nearest = (values[:, None] - levels).abs().amin(1)
        torch.testing.assert_close((found - values).abs()[values != 0], nearest[values != 0], atol=1e-6, rtol=0)
        assert float(found[values == 0].abs().max()) == 0
    assert torch.equal(quantised(values, 1), values.sign())
    assert torch.equal(quantised(torch.zeros(3), 4), torch.zeros(3))


def _probed(recipe: str, queries: int, radius: float = 1e-2, rows: int = 1) -> tuple[list[Tensor], list[Tensor]]:
    """The estimate and the true gradient on the first rows, of a model away from its reference."""
    stage, subject, task = stage_of(recipe), fresh(moved()), small_task()
    method = StageMethod(stage, subject, task, task.forget, task.retain, 0)
    scope = stage.scope.apply(subject)
    micro = [batches_of(subject, draws_of(stage, subject, rows))]
    rest = (method, subject, scope, None, micro, False, Accelerator())
    found = zeroth(*rest, probing=Probing(queries=queries, radius=radius), seed=5)
    return list(found.total()), list(gradients(*rest).total())


@check
def estimate_converges(plugin: type[Optimizer]) -> None:
    """cos(mean of q estimates, gradient) follows sqrt(q / (q + d - 1)) to 1."""
    recipe = "ga + layers(index=0, modules='input_layernorm')"
    size = 64
    seen = []
    for queries in (8, 64, 256):
        estimate, true = _probed(recipe, queries)
        seen.append(cosine(estimate, true))
        assert seen[-1] == pytest.approx((queries / (queries + size - 1)) ** 0.5, abs=2 / queries**0.5)
    assert seen[0] < seen[1] < seen[2] and seen[2] > 0.85
    assert float(flat(estimate).norm() / flat(true).norm()) == pytest.approx(1.1, abs=0.2), "of another scale"


@check(trains=True)
def needs_no_backward(plugin: type[Optimizer]) -> None:
    """No backward pass; the same rows and no dropout at both ends; nothing is left of the probing."""
    recipe = f"npo + retain_nll + lora(rank=2, dropout=0.5) + {term(plugin, {'queries': 2, 'warmup': 0.0, 'lr': 0.0})}"

    def never(*args: Any, **options: Any) -> Any:
        raise AssertionError("a backward pass")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.autograd, "grad", never)
        patch.setattr(torch.Tensor, "backward", never)
        before: dict[str, Tensor] = {}
        run = train(recipe, steps=2, prepare=lambda scope, method: before.update(weights(scope.subject)))
    assert all(torch.equal(p, before[n]) for n, p in weights(run.subject).items())
    # An adapter that starts at zero changes nothing under dropout only if dropout is off in between.
    one, two = (_probed("ga + lora(rank=2, dropout=0.5)", 1)[0] for _ in range(2))
    torch.manual_seed(123)
    three = _probed("ga + lora(rank=2, dropout=0.5)", 1)[0]
    assert torch.equal(flat(one), flat(two)) and torch.equal(flat(one), flat(three))


@check(trains=True)
def lowers_loss(plugin: type[Optimizer], recipe: str, lr: float) -> None:
    """With few parameters the loss falls by a tenth, in either form."""
    for options, rate in (({"adaptive": True}, lr), ({"adaptive": False}, 5 * lr)):
        text = f"{recipe} + {term(plugin, options | {'queries': 2, 'warmup': 0.0, 'weight_decay': 0.0})}"
        losses = [line["loss"] for line in trained(text, steps=20, lr=rate).lines]
        assert np.mean(losses[-4:]) < 0.9 * np.mean(losses[:4]), (options, losses)


@check(trains=True)
def alternates(plugin: type[Optimizer]) -> None:
    """Counted from the end: N estimated steps, N of gradients, and so on."""
    for total, period in ((1, 20), (30, 20), (80, 20), (45, 7)):
        kinds = [plugin(period=period).probing(step, total) is not None for step in range(total)]
        assert kinds[::-1] == [i // period % 2 == 0 for i in range(total)]
    probing = plugin(queries=3, radius=0.1).probing(0, 1)
    assert probing == Probing(queries=3, radius=0.1)
    backward, seen = torch.autograd.grad, [0]

    def counted(*args: Any, **options: Any) -> Any:
        seen[-1] += 1
        return backward(*args, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.autograd, "grad", counted)
        train(f"npo + retain_nll + {term(plugin, {'period': 2, 'queries': 1})}", steps=5,
              on_step=lambda line: seen.append(0))
    assert [n > 0 for n in seen[:5]] == [False, True, True, False, False]


@check
def first_phase_is_adamw(plugin: type[Optimizer]) -> None:
    """Gradient steps are torch's own AdamW, with moments that no estimated step in between has touched."""
    rng = torch.Generator().manual_seed(0)
    mine, theirs = (torch.nn.Parameter(torch.ones(5)) for _ in range(2))
    two = plugin(lr=0.1).build([mine])
    one = torch.optim.AdamW([theirs], lr=0.1, weight_decay=0.01)
    for estimated in (True, False, False, True, False):
        part = torch.randn(5, generator=rng)
        held = mine.detach().clone()
        for group in two.param_groups:
            group["estimated"] = estimated
        mine.grad = part.clone()
        two.step()
        if estimated:
            assert not torch.equal(mine, held)
            mine.data.copy_(held)
            continue
        theirs.grad = part.clone()
        one.step()
        assert torch.equal(mine, theirs)
    assert np.isclose(float(two.state[mine]["estimates"]), 2)


@check
def steps_along_gradient(plugin: type[Optimizer]) -> None:
    """-lr g at every step, and with momentum m the gradient counts 1 + (1 + m) in two steps; decay is part of it."""
    grads = [0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(0))
             for p in memoriser().model.parameters()]
    for momentum, factor in ((0.0, 2.0), (0.9, 2.9)):
        moves = flat(stepped(plugin(lr=2**-6, momentum=momentum), grads, times=2))
        torch.testing.assert_close(moves, -(2**-6) * factor * flat(grads), atol=1e-6, rtol=1e-4)
    decayed = flat(stepped(plugin(lr=2**-6, weight_decay=0.5), [0 * g for g in grads]))
    start = flat([p.detach() for p in memoriser().model.parameters()])
    torch.testing.assert_close(decayed, -(2**-6) * 0.5 * start, atol=1e-6, rtol=1e-4)
