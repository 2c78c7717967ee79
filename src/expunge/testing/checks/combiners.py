"""Promises of combiners: what becomes of two gradients, and of the update they lead to."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from expunge.methods._lib.projection import multipliers
from expunge.methods.base import Combine
from expunge.methods.stage import StageMethod
from expunge.models.scope import Scope
from expunge.training.gradients import Gradients, inner

from ..support import (
    Trained,
    batch_of,
    cosine,
    distance,
    flat,
    gradient,
    loss,
    memoriser,
    moved,
    small_task,
    train,
    trained,
    weights,
)
from .base import check, term
from .dynamics import retain_at

Parts = list[Tensor]


@cache
def apart() -> Gradients:
    """Forget and retain gradients of a model away from its reference. They must not be written to."""
    return gradient("npo + retain_nll", moved(), original=memoriser(), separate=True)


def with_dot(sign: float) -> tuple[Parts, Parts]:
    """The same forget gradient, and a retain gradient whose inner product with it has this sign, or is 0."""
    forget, retain = list(apart().forget), list(apart().retain)
    share = (sign * 0.3 * (inner(retain, retain) * inner(forget, forget)) ** 0.5 - inner(forget, retain)) / inner(
        forget, forget)
    return forget, [r + share * f for f, r in zip(forget, retain, strict=True)]


@check
def weighs_retain(plugin: type[Combine], rho: float = 3.0) -> None:
    """The update is g_f + rho g_r, and the inputs are not written to."""
    before = flat(apart().forget), flat(apart().retain)
    found = flat(plugin(rho=rho)(apart().forget, apart().retain))
    torch.testing.assert_close(found, before[0] + rho * before[1], rtol=1e-5, atol=1e-6)
    assert torch.equal(flat(apart().forget), before[0]) and torch.equal(flat(apart().retain), before[1])


@check
def product_is_gamma(plugin: type[Combine]) -> None:
    """<d, g_f> = gamma ||g_f||^2 whatever g_r is; a zero forget gradient leaves the retain gradient."""
    forget, retain = apart().forget, apart().retain
    for gamma, scale in itertools.product((0.5, 1.0, 2.0), (-3.0, 1.0, 10.0)):
        found = plugin(gamma=gamma)(forget, [scale * r for r in retain])
        assert inner(found, forget) / inner(forget, forget) == pytest.approx(gamma, rel=1e-4)
    nothing = plugin()([0 * f for f in forget], retain)
    assert torch.equal(flat(nothing), flat(retain))
    swapped = plugin(gamma=0.5, form="forget_above")(forget, retain)
    assert inner(swapped, retain) / inner(retain, retain) == pytest.approx(0.5, rel=1e-4)


@check
def sum_when_orthogonal(plugin: type[Combine]) -> None:
    """With <g_r, g_f> = 0 it is g_r + gamma g_f, and elsewhere it is not."""
    for sign, same in ((0.0, True), (1.0, False)):
        forget, retain = with_dot(sign)
        plain = [r + 0.7 * f for f, r in zip(forget, retain, strict=True)]
        found = plugin(gamma=0.7)(forget, retain)
        assert (cosine(found, plain) > 1 - 1e-8 and distance(found, plain) < 1e-5) == same
        assert distance(plugin(gamma=0.7, form="sum")(retain, forget), plain) < 1e-6


@check
def one_scalar(plugin: type[Combine]) -> None:
    """What is added of the forget gradient is the same multiple in every tensor; a per-tensor one would differ."""
    forget, retain = apart().forget, apart().retain
    found = plugin()(forget, retain)
    shares = [inner([d - r], [f]) / inner([f], [f]) for d, f, r in zip(found, forget, retain, strict=True)]
    assert shares == pytest.approx([shares[0]] * len(shares), rel=1e-3, abs=1e-4)
    each = [inner([r], [f]) / inner([f], [f]) for f, r in zip(forget, retain, strict=True)]
    assert max(each) - min(each) > 0.2 * abs(inner(retain, forget) / inner(forget, forget))


@check
def forgets_monotonically(plugin: type[Combine]) -> None:
    """Two quadratics that pull apart: the forget loss falls at every step, and under a weighted sum it rises."""
    goal_f, goal_r = torch.tensor([1.0, 2.0]), torch.tensor([-1.0, -0.5])
    metric = torch.tensor([4.0, 1.0])

    def falls(combiner: Combine, weight: float) -> list[float]:
        point, seen = torch.tensor([0.5, 1.0]), []
        for _ in range(200):
            seen.append(float((point - goal_f).square().sum()) / 2)
            (update,) = combiner([weight * (point - goal_f)], [metric * (point - goal_r)])
            point = point - 2e-3 * update
        return seen

    assert (np.diff(falls(plugin(gamma=1.0), 0.1)) < 0).all()
    assert (np.diff(falls(plugin(gamma=1.0, form="sum"), 0.1)) > 0).any()


@check(trains=True)
def forgets_with_retain(plugin: type[Combine], retain_rise: float = 0.3) -> None:
    """With the retain term it brings, npo forgets as far as it does alone, at a fraction of the retain loss."""
    mine, alone = (trained(r, steps=30, lr=1e-3, watch=10).readings for r in (f"npo + {term(plugin)}", "npo"))
    assert mine[-1][0] > 5
    assert mine[-1][1] < mine[0][1] + retain_rise and mine[-1][1] < 0.1 * alone[-1][1], (mine, alone)


@check
def sum_without_conflict(plugin: type[Combine]) -> None:
    """With <g_f, g_r> >= 0 nothing is projected."""
    forget, retain = with_dot(1.0)
    plain = [f + r for f, r in zip(forget, retain, strict=True)]
    assert torch.equal(flat(plugin()(forget, retain)), flat(plain))
    assert torch.equal(flat(plugin(project="forget")(forget, retain)), flat(plain))


@check
def never_against(plugin: type[Combine]) -> None:
    """In conflict the update keeps a non-negative product with both; the plain sum need not."""
    forget, retain = with_dot(-1.0)
    weak = [-0.5 * inner(forget, retain) / inner(forget, forget) * f for f in forget]
    assert inner([f + r for f, r in zip(weak, retain, strict=True)], forget) < 0
    found = plugin()(weak, retain)
    assert inner(found, forget) > 0 and inner(found, retain) > 0
    one_sided = plugin(project="forget")(weak, retain)
    assert inner(one_sided, retain) == pytest.approx(inner(retain, retain), rel=1e-5)


@check
def multiplier_moves(plugin: type[Combine]) -> None:
    """Up iff R > epsilon, by step (R - epsilon); never below 0; not during the warm-up; from the next step on."""
    made = plugin(rho=1.0, step=0.5, epsilon=0.3, warmup=2)
    seen = []
    for epoch, retain in [(0, 9.0), (1, 9.0), (2, 2.3), (2, 0.3), (3, 0.1), *[(4, 0.0)] * 20, (5, 1.3), (5, 0.3)]:
        made.observe({"forget": 5.0, "retain": retain}, epoch)
        seen.append(made.figures()["rho"])
    assert seen[:6] == pytest.approx([1.0, 1.0, 1.0, 2.0, 2.0, 1.9])
    assert seen[24] == 0 and min(seen) == 0, "slack brings it back to 0 and not below"
    assert seen[-1] == pytest.approx(0.5)
    other = plugin(rho=1.0, step=0.5, epsilon=0.3, warmup=2)
    other.restore(made.state())
    for each in (made, other):
        each.observe({"retain": 0.9}, 6)
    assert made.figures() == other.figures() and made.state() == other.state()


@check(trains=True)
def fixed_multiplier(plugin: type[Combine]) -> None:
    """Step 0: the same run as the weighted sum with rho as the retain weight."""
    curve = "adamw(lr=1e-3, eps=1e-3, warmup=0)"
    mine, theirs = (weights(train(f"{r} + {curve}", steps=3).subject)
                    for r in (f"npo + {term(plugin, {'rho': 3.0, 'step': 0.0})}", "npo + retain_nll(weight=3)"))
    start = weights(memoriser())
    moves = [[end[n] - start[n] for n in start] for end in (mine, theirs)]
    assert cosine(*moves) > 0.9999 and distance(*moves) < 1e-3


@check(trains=True)
def meets_bound(plugin: type[Combine], recipe: str, epsilon: float) -> None:
    """At the end R <= 1.05 epsilon on the retain rows, and forget predictions have nearly the largest entropy."""
    run = trained(recipe, steps=60, lr=3e-3)
    assert loss(run.subject, small_task().retain) <= 1.05 * epsilon
    with torch.no_grad():
        log_NV = run.subject.answers(batch_of(run.subject, small_task().forget)).logits_NV.log_softmax(-1)
    entropy = float(-(log_NV.exp() * log_NV).sum(-1).mean())
    assert entropy > 0.9 * math.log(log_NV.shape[-1]), entropy
    assert max(line["rho"] for line in run.lines) > run.lines[0]["rho"], "the constraint never mattered"


@check
def orthogonal_to_retain(plugin: type[Combine]) -> None:
    """What is left of the forget gradient meets no direction it was projected off."""
    forget, retain = apart().forget, apart().retain
    rest = [d - r for d, r in zip(plugin(form="gradient")(forget, retain), retain, strict=True)]
    assert abs(cosine(rest, retain)) < 1e-5 and cosine(rest, forget) > 0.1
    made = plugin(form="basis", history=2)
    directions = [list(gradient("npo + retain_nll", moved(n), original=memoriser(), separate=True).retain)
                  for n in (1, 8, 2, 3)]
    for direction in directions:
        found = made(forget, direction)
    for i, (d, f) in enumerate(zip(found, forget, strict=True)):
        rest_i = (d - directions[-1][i]).flatten().double()
        for direction in directions[1:]:
            assert abs(float(torch.cosine_similarity(rest_i, direction[i].flatten().double(), dim=0))) < 1e-5
        assert float(rest_i.norm() / f.norm()) > 0.1
    oldest = [d[0] for d in (found, directions[0])]
    assert abs(cosine([oldest[0] - directions[-1][0]], [oldest[1]])) > 1e-5, "the oldest direction was not dropped"


def watched(recipe: str, steps: int) -> list[tuple[list[float], list[float]]]:
    """<g_i, update> of every constraint at each step, before and after the correction."""
    seen: list[tuple[list[float], list[float]]] = []

    def prepare(scope: Scope, method: StageMethod) -> None:
        around, combiner = method.around_step, method._combine

        @contextmanager
        def watching(scope: Scope, optimizer: torch.optim.Optimizer) -> Iterator[None]:
            start = [p.detach().clone() for p in scope.parameters.values()]

            def products() -> list[float]:
                update = [p.detach() - s for p, s in zip(scope.parameters.values(), start, strict=True)]
                return [inner(row, update) for row in combiner._constraints]  # type: ignore[attr-defined]

            with around(scope, optimizer):
                yield
                before = products()
            seen.append((before, products()))

        method.around_step = watching  # type: ignore[method-assign]

    train(recipe, steps=steps, prepare=prepare)
    return seen


@check(trains=True)
def never_raises_retain(plugin: type[Combine]) -> None:
    """<g_i, u'> <= 1e-6 for the step's and all held constraints; the solver agrees with trying all active sets."""
    seen = watched(f"ga + retain_nll(weight=0.01) + {term(plugin, {'history': 3})} + adamw(lr=1e-3, warmup=0)", 6)
    assert [len(after) for _, after in seen] == [1, 2, 3, 4, 4, 4]
    assert all(max(after) <= 1e-6 for _, after in seen), seen
    assert max(max(before) for before, _ in seen) > 1e-3, "no step was in conflict"
    rng = np.random.default_rng(0)
    for size in (1, 2, 3, 5):
        rows = rng.normal(size=(size, 4))  # more constraints than dimensions in the last
        gram, violations = rows @ rows.T, rows @ rng.normal(size=4)
        found = multipliers(gram, violations)
        left = violations - gram @ found
        assert (found >= 0).all() and (left <= 1e-8).all() and abs(found @ left) < 1e-8
        assert found @ gram @ found == pytest.approx(_least(gram, violations), abs=1e-8)


@check
def nearest_in_metric(plugin: type[Combine]) -> None:
    """With one constraint the corrected step is u - <g, u> / (g D^-1 g) D^-1 g, D = sqrt(v) + eps of Adam's own v."""
    forget, retain = torch.tensor([3.0, -1.0, 0.1, 2.0]), torch.tensor([-1.0, -0.5, 0.02, 0.3])
    for optimizer, second in ((torch.optim.Adam, True), (torch.optim.SGD, False)):
        moved_by = []
        for combiner in (plugin(history=0), None):
            parameter = torch.nn.Parameter(torch.zeros(4))
            made = optimizer([parameter], lr=0.1)
            scope: Any = SimpleNamespace(parameters={"p": parameter}, masks={})
            (update,) = combiner([forget], [retain]) if combiner else (forget + retain,)
            parameter.grad = update
            with combiner.around_step(scope, made) if combiner else nullcontext():
                made.step()
            moved_by.append(parameter.detach().clone())
        metric = made.state[parameter]["exp_avg_sq"].sqrt() + 1e-8 if second else torch.ones(4)
        found, plain = moved_by
        unit = retain / retain.norm()
        assert float(unit @ plain) > 1e-3, "no conflict to solve"
        expected = plain - (unit @ plain) / (unit @ (unit / metric)) * unit / metric
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-4)


def _least(gram: np.ndarray, violations: np.ndarray) -> float:
    """Squared length of the smallest correction, by trying every active set."""
    best = np.inf
    for size in range(len(gram) + 1):
        for chosen in map(list, itertools.combinations(range(len(gram)), size)):
            weights = np.zeros(len(gram))
            weights[chosen] = np.linalg.pinv(gram[np.ix_(chosen, chosen)]) @ violations[chosen]
            if (weights >= -1e-9).all() and (violations - gram @ weights <= 1e-7).all():
                best = min(best, weights @ gram @ weights)
    return float(best)


@check(trains=True)
def plain_without_conflict(plugin: type[Combine]) -> None:
    """Bit for bit the plain step: without a retain gradient in every form, and where nothing works against it."""
    plain = weights(train("ga", steps=3, lr=1e-3).subject)
    for form in ("update", "gradient", "basis"):
        mine = weights(train(f"ga + retain_nll(weight=0) + {term(plugin, {'form': form})}", steps=3, lr=1e-3).subject)
        assert all(torch.equal(mine[n], plain[n]) for n in plain), form
    ends = []
    retain = apart().retain
    for combiner in (plugin(), None):
        scope = Scope(train("ga", steps=1, lr=0.0).subject, tuple(plain))
        optimizer = torch.optim.AdamW(scope.parameters.values(), lr=1e-3)
        update = combiner(retain, retain) if combiner else [r + r for r in retain]
        for parameter, part in zip(scope.parameters.values(), update, strict=True):
            parameter.grad = part
        if combiner:
            with combiner.around_step(scope, optimizer):
                optimizer.step()
        else:
            optimizer.step()
        ends.append(weights(scope.subject))
    assert all(torch.equal(ends[0][n], ends[1][n]) for n in plain)


@check(trains=True)
def kinder_step(plugin: type[Combine]) -> None:
    """Gradient ascent, with and without: at equal distance from the start the retain rows are less forgotten."""

    def path(recipe: str) -> Trained:
        start, seen = weights(memoriser()), [(0.0, loss(memoriser(), small_task().retain))]

        def look(line: dict[str, Any]) -> None:
            if line["step"] % 5 == 0:
                far = flat([p.detach() - start[n] for n, p in held[0].parameters.items()]).norm()
                seen.append((float(far), loss(held[0].subject, small_task().retain)))

        held: list[Scope] = []
        run = train(recipe, steps=25, lr=2e-4, batch_size=6, on_step=look,
                    prepare=lambda scope, method: held.append(scope))
        return replace(run, readings=seen)

    mine, plain = (path(f"ga + retain_nll(weight=1e-6) + {c}") for c in (term(plugin, {"history": 4}), "weighted"))
    reach = 0.999 * min(run.readings[-1][0] for run in (mine, plain))
    for share in (0.3, 0.6, 1.0):
        assert retain_at(mine, share * reach) < 0.8 * retain_at(plain, share * reach), (mine.readings, plain.readings)


@check(trains=True)
def metric_of_optimizer(plugin: type[Combine]) -> None:
    """Sign descent, plain descent on estimates, and masks: the constraints hold all the same."""
    for modifiers in ("sign_sgd(lr=1e-3, warmup=0, weight_decay=0)", "sign_adam(lr=1e-3, warmup=0, bits=4)",
                      "zeroth_order(adaptive=False, queries=1, lr=1e-4, warmup=0) + layers(index=0)"):
        seen = watched(f"ga + retain_nll(weight=0.01) + {term(plugin, {'history': 2})} + {modifiers}", 3)
        assert all(max(after) <= 1e-6 for _, after in seen), (modifiers, seen)
