"""Promises of perturbations: where the forget gradient is taken, and that nothing of it stays.

Legend: B rows, T padded length, D hidden size.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from expunge.data.text_encoder import TokenBatch
from expunge.methods.base import Perturb
from expunge.methods.perturb.saf import fake_quantized, linear_weights, quantized
from expunge.models.answers import Answers
from expunge.models.language import CausalLM
from expunge.models.scope import Scope
from expunge.training.gradients import Tamper, inner

from ..support import (
    batch_of,
    cosine,
    flat,
    fresh,
    gradient,
    hooks,
    loss,
    memoriser,
    moved,
    small_task,
    train,
    trained,
    weights,
)
from .base import check, term

ALONE = "npo + retain_nll(weight=0)"


class _Boom(Exception):
    """What the tests throw."""


@check(trains=True)
def does_nothing(plugin: type[Perturb], options: dict[str, Any]) -> None:
    """With these options three steps end in the very weights they end in without it, and other options do not."""
    base = "npo + retain_nll"  # with a retain term the two sides share a forward pass
    plain = weights(train(base, steps=3, lr=1e-3).subject)
    mine = weights(train(f"{base} + {term(plugin, options)}", steps=3, lr=1e-3).subject)
    assert all(torch.equal(mine[n], plain[n]) for n in plain)
    busy = {"warmup": 0.0} if "warmup" in plugin.Spec.model_fields else {}
    other = weights(train(f"{base} + {term(plugin, busy)}", steps=3, lr=1e-3).subject)
    assert any(not torch.equal(other[n], plain[n]) for n in plain)


@check(trains=True)
def restores_weights(plugin: type[Perturb], options: dict[str, Any] | None = None) -> None:
    """With a learning rate of 0 no bit changes; nor when any of a step's forward passes fails. No hook stays."""
    recipe = f"npo + retain_nll + {term(plugin, options)} + adamw(lr=0, warmup=0)"
    before = weights(memoriser())

    def same(subject: CausalLM) -> bool:
        return hooks(subject) == [] and all(torch.equal(p, before[n]) for n, p in weights(subject).items())

    calls: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        real = CausalLM.answers_of

        def counted(self: CausalLM, batches: dict[str, TokenBatch]) -> dict[str, Answers]:
            calls.append(1)
            if len(calls) == limit:
                raise _Boom
            return real(self, batches)

        patch.setattr(CausalLM, "answers_of", counted)
        limit = 0
        assert same(train(recipe, steps=1).subject)
        passes = len(calls)
        assert passes >= 2
        for limit in range(1, passes + 1):
            calls.clear()
            subject = fresh()
            with pytest.raises(_Boom):
                train(recipe, steps=1, subject=subject)
            assert same(subject), f"after pass {limit} of {passes}"
    deep, subject = fresh().model, fresh()
    list(subject.blocks.values())[-1].forward = lambda *a, **k: (_ for _ in ()).throw(_Boom)
    with pytest.raises(_Boom):
        train(recipe, steps=1, subject=subject)
    assert same(subject) and not subject.model.training and deep is not subject.model


def asked(plugin: Perturb, scope: Scope, answer: Callable[[], list[Tensor]], *, step: int = 0, total: int = 1,
          seed: int = 0) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    """What it makes of an oracle that says `answer()`, and the weights at each of its questions."""
    seen: list[dict[str, Tensor]] = []

    def plain(tamper: Tamper | None = None) -> list[Tensor]:
        seen.append(weights(scope.subject))
        return answer()

    found = plugin.gradient(scope.subject, scope, plain, step=step, total=total, seed=seed)
    return list(found), seen


@check
def moves_up_the_gradient(plugin: type[Perturb], rho: float = 0.3) -> None:
    """theta + rho g / ||g||, the norm over the whole gradient; what has none stays where it is."""
    subject, generator = fresh(), torch.Generator().manual_seed(0)
    start = weights(subject)
    names = tuple(n for n in start if "mlp" in n)
    masks = {n: torch.rand(start[n].shape, generator=generator) < 0.3 for n in names[:4]}
    for chosen in ({}, masks):
        scope = Scope(subject, names, chosen)
        found = [100 * torch.randn(start[n].shape, generator=generator) * chosen.get(n, 1) for n in names]
        answer, (clean, up) = asked(plugin(rho=rho), scope, lambda: found)  # noqa: B023
        assert answer == found
        length = inner(found, found) ** 0.5
        for name, value in start.items():
            move = up[name] - value
            goal = rho / length * found[names.index(name)] if name in names else torch.zeros_like(value)
            torch.testing.assert_close(move, goal, atol=1e-7, rtol=1e-3)
            assert torch.equal(clean[name], value) and torch.equal(weights(subject)[name], value)
    nothing = [torch.zeros_like(start[n]) for n in names]
    assert len(asked(plugin(rho=rho), Scope(subject, names), lambda: nothing)[1]) == 1, "no direction to go"


def climb(subject: CausalLM, radius: float) -> tuple[float, float]:
    """The forget loss of npo, and how far projected ascent within `radius` of the weights raises it."""
    here, rise = fresh(subject), 0.0
    start = [p.detach().clone() for p in here.model.parameters()]
    first = gradient(ALONE, here, original=memoriser()).values["npo"]
    for _ in range(4):
        up = list(gradient(ALONE, here, original=memoriser()).total())
        with torch.no_grad():
            for parameter, part in zip(here.model.parameters(), up, strict=True):
                parameter.add_(part, alpha=radius / 2 / float(flat(up).norm()))
            away = [p - s for p, s in zip(here.model.parameters(), start, strict=True)]
            share = min(1.0, radius / inner(away, away) ** 0.5)
            for parameter, origin, part in zip(here.model.parameters(), start, away, strict=True):
                parameter.copy_(origin + share * part)
        rise = max(rise, gradient(ALONE, here, original=memoriser()).values["npo"] - first)
    return first, rise


@check(trains=True)
def flatter_than_plain(plugin: type[Perturb], rho: float) -> None:
    """After as many steps and about as much forgetting, the forget loss rises less than half as far within reach."""
    mine, plain = (trained(r, steps=15, lr=1e-3, watch=15)
                   for r in (f"npo + retain_nll + {term(plugin, {'rho': rho})}", "npo + retain_nll"))
    assert mine.readings[-1][0] > 0.9 * plain.readings[-1][0]
    assert climb(mine.subject, 0.1)[1] < 0.5 * climb(plain.subject, 0.1)[1]


@check
def averages_neighbours(plugin: type[Perturb]) -> None:
    """The mean over draws of normal noise of length sigma, which a seed repeats and another seed changes."""
    subject = fresh()
    scope = Scope(subject, tuple(n for n in weights(subject) if "mlp" in n))
    made = plugin(sigma=1e-2, draws=3)

    def here() -> list[Tensor]:
        return [p.detach().clone() for p in scope.parameters.values()]

    found, seen = asked(made, scope, here, seed=1)
    start, visits = flat(here()), [flat([w[n] for n in scope.names]) for w in seen]
    torch.testing.assert_close(flat(found), sum(visits) / 3, atol=1e-6, rtol=0)
    for visit in visits:
        assert float((visit - start).std()) == pytest.approx(1e-2, rel=0.02)
        assert abs(float((visit - start).mean())) < 1e-4
    assert abs(float(torch.cosine_similarity(visits[0] - start, visits[1] - start, dim=0))) < 0.02
    again, other = (flat(asked(made, scope, here, seed=s)[0]) for s in (1, 2))
    assert torch.equal(again, flat(found)) and not torch.equal(other, flat(found))


# Rounded weights


def by_rows(weight: Tensor, bits: int) -> Tensor:
    """The slow way: one output row after the other."""
    most = 2 ** (bits - 1) - 1
    return torch.stack([torch.round(row / (row.abs().max() / most)) * (row.abs().max() / most) for row in weight])


def accuracy(subject: CausalLM) -> float:
    """Share of forget tokens that are the model's first choice."""
    with subject.evaluating():
        answers = subject.answers(batch_of(subject, small_task().forget))
    return float((answers.logits_NV.argmax(-1) == answers.batch.target_N).float().mean())


@check
def rounds_as_exported(plugin: type[Perturb]) -> None:
    """The forward pass is that of a copy whose linear layers were quantised and dequantised row by row."""
    batch = batch_of(memoriser(), small_task().forget[:3])
    for bits in (3, 4, 8):
        exported = fresh()
        head = exported.model.get_input_embeddings().weight
        with torch.no_grad():
            for module in exported.model.modules():
                if isinstance(module, nn.Linear) and module.weight is not head:
                    module.weight.copy_(by_rows(module.weight, bits))
        subject = fresh()
        with quantized(subject, bits), torch.no_grad():
            rounded = subject.answers(batch).logits_NV
        torch.testing.assert_close(rounded, exported.answers(batch).logits_NV.detach(), atol=1e-4, rtol=1e-4)
    assert torch.equal(fake_quantized(torch.zeros(2, 3), 4), torch.zeros(2, 3))
    weight = torch.randn(5, 7, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(fake_quantized(weight.T, 4, rows=1), by_rows(weight, 4).T)


@check
def straight_through(plugin: type[Perturb]) -> None:
    """The gradient at rounded weights is autograd's through w + stopgrad(Q(w) - w); alpha times it is added."""
    subject = fresh(moved())
    batch = batch_of(subject, small_task().forget[:3])
    rounded = {id(w) for w, _ in linear_weights(subject)}
    named = dict(subject.model.named_parameters())
    leaves = {n: p.detach().clone().requires_grad_(True) for n, p in named.items()}
    through = {n: p + (fake_quantized(p, 4) - p).detach() if id(named[n]) in rounded else p
               for n, p in leaves.items()}
    out = torch.func.functional_call(subject.model, through, kwargs={
        "input_ids": batch.ids_BT, "attention_mask": batch.attention_BT, "use_cache": False})
    target = F.cross_entropy(out.logits.flatten(0, 1)[batch.flat_N], batch.target_N)
    expected = torch.autograd.grad(target, list(leaves.values()))
    with quantized(subject, 4):
        found = list(gradient("retain_nll", subject, batches=[{"retain": batch}]).total())
    assert cosine(found, expected) > 0.9999
    chosen = [i for i, p in enumerate(named.values()) if id(p) in rounded]
    assert all(float(found[i].norm()) > 0 for i in chosen)
    scope = Scope(subject, tuple(named))
    said = iter([[torch.ones_like(p) for p in named.values()], [2 * torch.ones_like(p) for p in named.values()]])
    combined, seen = asked(plugin(alpha=3.0, warmup=0.0), scope, lambda: next(said), step=9, total=10)
    assert all(bool((g == 7).all()) for g in combined)
    name = next(n for n, p in named.items() if id(p) in rounded)
    torch.testing.assert_close(seen[1][name], by_rows(seen[0][name], 4))


@check
def alpha_rises(plugin: type[Perturb]) -> None:
    """As published with 300 steps: 0 up to step 100, half at 150, all from 200 on."""
    made = plugin(alpha=3.0)
    found = [made.weight(step - 1, 300) for step in (1, 100, 150, 200, 300)]  # type: ignore[attr-defined]
    assert found == pytest.approx([0.0, 0.0, 1.5, 3.0, 3.0])
    assert plugin(alpha=3.0, warmup=0.0).weight(0, 4) == 1.5  # type: ignore[attr-defined]


@check
def rounding_spares_control(plugin: type[Perturb]) -> None:
    """A quantiser that destroys a model which forgot nothing would prove nothing: 8 bits must keep its answers."""
    subject = fresh()
    plain = accuracy(subject)
    kept = {}
    for bits in (8, 4, 2):
        with quantized(subject, bits):
            kept[bits] = accuracy(subject)
    assert plain > 0.95 and abs(kept[8] - plain) < 0.01
    assert kept[2] < kept[8] - 0.05, f"no rounding this coarse leaves a model whole: {kept}"


@check(trains=True)
def rounds_to_the_same(plugin: type[Perturb]) -> None:
    """Moved by less than half a step, without crossing a border, weights give the quantised original's answers."""
    subject, generator = fresh(), torch.Generator().manual_seed(0)
    with quantized(subject, 4):
        original = {id(w): w.clone() for w, _ in linear_weights(subject)}
        before = accuracy(subject)
    with torch.no_grad():
        for weight, _ in linear_weights(subject):
            most = weight.abs().amax(1, keepdim=True)  # it sets the scale, so it stays the largest
            room = 0.5 * most / 7 - (weight - fake_quantized(weight, 4)).abs()
            move = room * 0.9 * (2 * torch.rand(weight.shape, generator=generator) - 1)
            weight.copy_(torch.where(weight.abs() == most, weight, (weight + move).clamp(-most, most)))
    assert loss(subject, small_task().forget) != loss(memoriser(), small_task().forget)
    with quantized(subject, 4):
        for weight, _ in linear_weights(subject):
            torch.testing.assert_close(weight, original[id(weight)], atol=1e-6, rtol=0)
        assert accuracy(subject) == pytest.approx(before, abs=1e-6)


@check(trains=True)
def survives_rounding(plugin: type[Perturb], bits: int) -> None:
    """Rounded, the model that was trained with it forgets more than in full; the plain one does not gain as much."""
    gains = []
    for recipe in (f"npo + retain_nll + {term(plugin, {'bits': bits, 'warmup': 0.0})}", "npo + retain_nll"):
        subject = fresh(trained(recipe, steps=30, lr=3e-4).subject)
        full = loss(subject, small_task().forget)
        with quantized(subject, bits):
            gains.append(loss(subject, small_task().forget) - full)
            assert loss(subject, small_task().retain) < 2
    assert gains[0] > gains[1] + 0.1 and gains[0] > 0, gains
