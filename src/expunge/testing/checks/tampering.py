"""Promises of perturbations that take the part of somebody who fine-tunes the model later.

Legend: N supervised tokens (flat), V vocabulary.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor

from expunge.data.text_encoder import TokenBatch
from expunge.methods._lib.own_gradients import mean_of
from expunge.methods.base import Perturb
from expunge.methods.finetune import finetune
from expunge.methods.stage import StageMethod
from expunge.models.language import CausalLM
from expunge.models.scope import Scope
from expunge.training.gradients import Gradient, gradients

from ..support import (
    batches_of,
    cosine,
    distance,
    draws_of,
    flat,
    fresh,
    loss,
    moved,
    reference_for,
    small_task,
    stage_of,
    train,
    trained,
    weights,
)
from .base import check, term

ALONE = "npo + retain_nll"


def perturbed_gradient(
        plugin: type[Perturb], options: dict[str, Any], subject: CausalLM, rows: int = 6,
        micro: int = 6) -> tuple[Gradient, Gradient, list[dict[str, TokenBatch]], list[dict[str, Tensor]]]:
    """The forget gradient with it and without, the micro-batches, and the weights at each of its questions."""
    stage, task = stage_of(f"{ALONE} + {term(plugin, options)}"), small_task()
    method = StageMethod(stage, subject, task, task.forget, task.retain, 0)
    draws = draws_of(stage, subject, rows)
    batches = [batches_of(subject, draws[at: at + micro]) for at in range(0, rows, micro)]
    scope = Scope(subject, tuple(name for name, _ in subject.model.named_parameters()))
    every = {f"{i}{side}": b for i, batch in enumerate(batches) for side, b in batch.items()}
    reference = reference_for(stage, subject, every)
    ask = partial(gradients, method, subject, scope, reference, batches, True, Accelerator(), only="forget")
    seen: list[dict[str, Tensor]] = []

    def plain(tamper: Any = None) -> Gradient:
        seen.append(weights(subject))
        return ask(tamper=tamper).forget

    clean = ask().forget
    (part,) = stage.perturb
    return part.gradient(subject, scope, plain, step=0, total=1, seed=0), clean, batches, seen


def _slope(plugin: type[Perturb]) -> Callable[[Tensor, Tensor], Tensor]:
    return cast(Callable[[Tensor, Tensor], Tensor], sys.modules[plugin.__module__].scale_gradient)


@check
def penalty_in_closed_form(plugin: type[Perturb]) -> None:
    """sum_v p_v z_v - z_y beside autograd through w, in float64."""
    generator = torch.Generator().manual_seed(0)
    logits_NV = 4 * torch.randn(7, 50, generator=generator, dtype=torch.float64)
    target_N = torch.randint(0, 50, (7,), generator=generator)
    found_N = _slope(plugin)(logits_NV, target_N)
    for n in range(7):
        w = torch.ones((), dtype=torch.float64, requires_grad=True)
        nll = torch.nn.functional.cross_entropy(w * logits_NV[n: n + 1], target_N[n: n + 1])
        assert float(torch.autograd.grad(nll, w)[0]) == pytest.approx(float(found_N[n]), abs=1e-9)
    certain = torch.tensor([[0.0, 1e4]])
    assert float(_slope(plugin)(certain, torch.tensor([1]))) == 0, "a certain model is stationary"


@check
def adds_penalty(plugin: type[Perturb]) -> None:
    """One micro-batch or three: what is added is autograd's gradient of weight * (mean over all tokens)^2."""
    added = []
    for micro in (6, 2):
        subject = fresh(moved())
        found, clean, batches, _ = perturbed_gradient(plugin, {"weight": 0.7}, subject, micro=micro)
        added.append([f - c for f, c in zip(found, clean, strict=True)])
        subject.model.requires_grad_(True)
        parts = [_slope(plugin)(subject.answers(b["unrelated"]).logits_NV, b["unrelated"].target_N) for b in batches]
        expected = torch.autograd.grad(0.7 * torch.cat(parts).mean() ** 2, tuple(subject.model.parameters()))
        assert flat(expected).norm() > 0 and distance(added[-1], expected) < 1e-3
    assert cosine(added[0], added[1]) > 0.999


@check(trains=True)
def penalty_stays_lower(plugin: type[Perturb], weight: float) -> None:
    """The mean slope of the unrelated rows, in absolute value, beside a run without it."""
    rows = [small_task().background]
    found = []
    for recipe in (f"{ALONE} + {term(plugin, {'weight': weight})}", ALONE):
        subject = fresh(trained(recipe, steps=20, lr=1e-3).subject)
        batch = subject.collate([subject.encoder.encode(r) for r in rows[0]])
        found.append(abs(mean_of(subject, [batch], lambda a: _slope(plugin)(a.logits_NV, a.batch.target_N))))
    assert found[0] < 0.5 * found[1], found


@check
def averages_attacked(plugin: type[Perturb]) -> None:
    """Weights of 1, and e^(rising (i - K)) after attack step i; each question finds the attacker's rows easier."""
    subject = fresh(moved(16))
    options = {"steps": 4, "every": 2, "lr": 1e-3, "rising": 0.5, "clean": 2.0}
    found, clean, batches, seen = perturbed_gradient(plugin, options, subject)
    assert all(torch.equal(p, seen[0][n]) for n, p in weights(subject).items()), "the weights were not restored"
    gradients_there, losses = [], []
    for state in seen:
        there = fresh(subject)
        there.model.load_state_dict(state, strict=False)
        with there.evaluating():
            losses.append(-float(there.answers(batches[0]["attacked"]).logp_N.mean()))
    assert len(seen) == 3 and losses[0] > losses[1] > losses[2], losses
    for state in seen[1:]:
        with torch.no_grad():
            for name, parameter in subject.model.named_parameters():
                parameter.copy_(state[name])
        stage = stage_of(ALONE)
        task = small_task()
        method = StageMethod(stage, subject, task, task.forget, task.retain, 0)
        original = fresh(moved(16))
        reference = reference_for(stage, original, {s: b for s, b in batches[0].items() if s in ("forget", "retain")})
        scope = Scope(subject, tuple(n for n, _ in subject.model.named_parameters()))
        gradients_there.append(gradients(method, subject, scope, reference, batches, True, Accelerator(),
                                         only="forget").forget)
    factors = [2.0, float(torch.tensor(-1.0).exp()), 1.0]
    mean = [sum(f * g for f, g in zip(factors, parts, strict=True)) / sum(factors)
            for parts in zip(clean, *gradients_there, strict=True)]
    assert distance(found, mean) < 1e-3, distance(found, mean)


@check
def standing_attacker_changes_nothing(plugin: type[Perturb]) -> None:
    """All gradients are then the same, and their mean is each of them."""
    found, clean, _, _ = perturbed_gradient(plugin, {"steps": 2, "every": 1, "lr": 0.0}, fresh(moved()))
    assert distance(found, clean) < 1e-6


@check(trains=True)
def relearned_less(plugin: type[Perturb], options: dict[str, Any], again: int) -> None:
    """Relearned on every other forget row, the rest stays less likely than after the same steps without it."""
    known, asked = small_task().forget[::2], small_task().forget[1::2]
    after = []
    for recipe in (ALONE, f"{ALONE} + {term(plugin, options)}"):
        subject = fresh(train(recipe, steps=20, lr=1e-3).subject)
        finetune(subject, known, steps=again, lr=1e-3)
        after.append(loss(subject, asked))
    assert after[1] > after[0] + 0.1, after


# A slow adversary


@check
def forks_and_descends(plugin: type[Perturb]) -> None:
    """Questions are asked at w, at w - lr g, at w - lr (g + g') and, after the fork, at w again."""
    subject, lr = fresh(moved(8)), 0.05
    batch = batches_of(subject, draws_of(ALONE, subject, 4))
    scope = Scope(subject, tuple(name for name, _ in subject.model.named_parameters()))
    made, seen, start = plugin(every=3, lr=lr), [], weights(subject)

    def plain(tamper: Any = None) -> Gradient:
        seen.append(weights(subject))
        tamper(SimpleNamespace(batches=batch))
        return [torch.ones_like(p) for p in scope.parameters.values()]

    expected = fresh(subject)
    for step in range(4):
        found = made.gradient(subject, scope, plain, step=step, total=4, seed=0)
        assert all(bool((part == 1).all()) for part in found)
        if step == 3:
            expected = fresh(subject)
        for name, value in weights(expected).items():
            torch.testing.assert_close(seen[step][name], value, atol=1e-6, rtol=1e-5)
        expected.model.requires_grad_(True)
        slope = torch.autograd.grad(-expected.answers(batch["forget"]).logp_N.mean(),
                                    tuple(expected.model.parameters()))
        with torch.no_grad():
            for parameter, part in zip(expected.model.parameters(), slope, strict=True):
                parameter.sub_(part, alpha=lr)
    assert all(torch.equal(value, start[name]) for name, value in weights(subject).items())
    again = plugin(every=3, lr=lr)
    again.restore(made.state())
    assert all(torch.equal(a, b) for a, b in zip(again.state()["held"], made.state()["held"], strict=True))
