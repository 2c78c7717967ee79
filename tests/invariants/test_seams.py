"""The seams that modifiers hook into: gradients that are owned, weights that come back, contexts that nest."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from expunge.data.text_encoder import TokenBatch
from expunge.errors import NonFiniteError, PreflightError
from expunge.methods.combine.blur import BLUR
from expunge.methods.combine.gu import GU
from expunge.methods.combine.pcgrad import PCGrad
from expunge.methods.combine.pdu import ascended
from expunge.methods.plan import preflight
from expunge.methods.recipe import parse
from expunge.methods.stage import StageMethod
from expunge.models.language import CausalLM
from expunge.models.scope import Scope
from expunge.records.settings import RunSettings
from expunge.testing.support import (
    CONFIG,
    batches_of,
    draws_of,
    fresh,
    memoriser,
    moved,
    reference_for,
    small_task,
    train,
    weights,
)
from expunge.training.gradients import Gradients, _owned, gradients, inner
from expunge.training.step import Role, Step, Term, WeightedTerm
from expunge.training.zeroth import Directions


class Sum(nn.Module):
    """Two parameters of which only the sum matters: autograd hands one tensor out for both."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = (nn.Parameter(torch.ones(3)) for _ in range(2))


def test_gradients_that_share_a_tensor_are_summed_apart() -> None:
    """d(a + b) is one tensor to autograd; added to in place over micro-batches it would count twice."""
    model = Sum()
    subject = CausalLM(model, memoriser().encoder)
    batches = list(batches_of(memoriser(), draws_of("npo", memoriser(), 1)).values())
    micro: list[Mapping[str, TokenBatch]] = [{"forget": batches[0]}] * 3

    def terms(step: Step, only: Any = None) -> list[WeightedTerm]:
        return [WeightedTerm("sum", "forget", 1.0, Term((model.a + model.b).sum()[None], "sequences", "forget"))]

    method: Any = SimpleNamespace(terms=terms, shared_pass=(), disjoint=False)
    shared = torch.autograd.grad(terms(None)[0].term.sum_B.sum(), [model.a, model.b])  # type: ignore[arg-type]
    assert shared[0].data_ptr() == shared[1].data_ptr(), "autograd no longer shares; the copy has lost its reason"
    scope = Scope(subject, ("a", "b"))
    found = gradients(method, subject, scope, None, micro, False, Accelerator()).total()
    assert [g.tolist() for g in found] == [[1.0] * 3] * 2  # each micro-batch counts a third
    found[0].add_(1)
    assert found[1].tolist() == [1.0] * 3


def test_owned_parts_are_whole_and_distinct() -> None:
    parameters = [torch.zeros(2, 3) for _ in range(4)]
    one = torch.arange(6.0).reshape(2, 3)
    found = _owned(parameters, [one, one, None, torch.ones(1).expand(2, 3)])
    assert [f.tolist() for f in found] == [one.tolist(), one.tolist(), [[0.0] * 3] * 2, [[1.0] * 3] * 2]
    assert len({f.data_ptr() for f in found}) == 4 and all(f.is_contiguous() for f in found)


def test_inner_products() -> None:
    a, b = ([torch.full((2,), x), torch.full((3,), y)] for x, y in ((1.0, 2.0), (3.0, -1.0)))
    assert inner(a, b) == 0.0 and inner(a, a) == 14.0 and inner([], []) == 0.0
    found = Gradients(a, b, [], {}, {}).describe()
    assert found["cosine"] == 0 and found["grad_norm_forget"] == pytest.approx(14**0.5)


class Boom(Exception):
    """What the tests throw."""


@pytest.mark.parametrize("where", ["body", "shift", "nowhere"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_shifted_weights_come_back(where: str, dtype: torch.dtype) -> None:
    """Moved within the masks only; the very bits return whatever happens, also in a shift inside a shift."""
    subject, generator = fresh(), torch.Generator().manual_seed(0)
    subject.model.to(dtype)
    before = weights(subject)
    names = tuple(n for n in before if "mlp" in n)
    masks = {names[0]: torch.rand(before[names[0]].shape, generator=generator) < 0.5}
    scope = Scope(subject, names, masks)

    def shift() -> Iterator[Tensor]:
        for i, name in enumerate(names):
            if where == "shift" and i == 3:
                raise Boom
            yield torch.ones_like(before[name])

    def body() -> None:
        with scope.shifted(shift(), 0.5):
            now = weights(subject)
            assert torch.equal(now[names[0]][~masks[names[0]]], before[names[0]][~masks[names[0]]])
            assert bool((now[names[0]] != before[names[0]])[masks[names[0]]].all())
            assert all(bool((now[n] != before[n]).all()) for n in names[1:])
            assert all(torch.equal(now[n], before[n]) for n in before if n not in names)
            with scope.shifted(shift(), -3.0):
                assert not torch.equal(weights(subject)[names[1]], now[names[1]])
            assert all(torch.equal(p, now[n]) for n, p in weights(subject).items())
            if where == "body":
                raise Boom

    if where == "nowhere":
        body()
    else:
        with pytest.raises(Boom):
            body()
    assert all(torch.equal(p, before[n]) for n, p in weights(subject).items())


def test_contexts_of_a_side_nest() -> None:
    """What several perturbations put around a forward pass all runs, the first outermost, and only there."""
    batches = batches_of(moved(), draws_of("npo + retain_nll", moved(), 2))
    step, seen = Step(moved(), batches), []

    def context(name: str) -> Any:
        @contextmanager
        def around() -> Iterator[None]:
            seen.append(f"+{name}")
            yield
            seen.append(f"-{name}")

        return around

    step.inside("forget", context("a"))
    step.inside("forget", context("b"))
    with torch.no_grad():
        step.answers("retain")
        assert seen == []
        step.answers("forget")
        step.answers("forget")
        assert seen == ["+a", "+b", "-b", "-a"]
        step.hidden("forget", 0)
    assert seen == ["+a", "+b", "-b", "-a"] * 2


def test_directions_are_drawn_again() -> None:
    """The same numbers at every look; one direction has the length of the root of d; parts add up."""
    parameters = [torch.zeros(20, 30), torch.zeros(50)]
    one, two = (Directions(parameters, [seed], [1.0]) for seed in (1, 2))
    assert inner(one, one) == pytest.approx(650, rel=1e-5) and abs(inner(one, two)) < 100
    assert all(torch.equal(a, b) for a, b in zip(one, one[:], strict=True)) and len(one) == 2
    both = Directions(parameters, [1, 2], [2.0, -1.0], one.scales + two.scales)
    for i in range(2):
        torch.testing.assert_close(both[i], 2 * one[i] - two[i])


@pytest.mark.parametrize(("recipe", "kept"), [
    ("npo + gu", {"retain_nll"}),
    ("grad_diff + blur", {"retain_nll"}),
    ("blur + rmu", {"activation_match"}),
    ("entropic_pdu", {"retain_nll"}),
    ("pdu + npo + retain_kl", {"retain_kl"}),
    ("npo + gu + retain_nll(weight=0)", set()),
])
def test_one_companion_of_a_kind(recipe: str, kept: set[str]) -> None:
    """Of two that bring a retain term the objective's stays, in whatever order they are named."""
    assert {p.card.name for p in parse(recipe, 3)[0].retain} == kept


def test_perturbations_compose() -> None:
    """Several at once, in both orders, under estimated gradients, with an adapter and a combiner."""
    for recipe in ("npo + retain_nll + sam + lat(steps=1) + smooth(draws=2)",
                   "npo + gu + lat(steps=1) + sam + saf(warmup=0) + layers(index=1) + zeroth_order(queries=1)",
                   "npo + blur + lora(rank=2) + smooth(draws=1) + sam + hybrid(period=1, queries=1)"):
        before: dict[str, Tensor] = {}
        run = train(recipe, steps=2, lr=1e-3, batch_size=3, accumulate=2,
                    prepare=lambda scope, method: before.update(weights(scope.subject)))  # noqa: B023
        after = weights(run.subject)
        assert {n for n in after if not torch.equal(after[n], before[n])} <= set(run.scope.names)
        assert any(not torch.equal(after[n], before[n]) for n in after)


def test_layers_are_checked_before_anything_runs() -> None:
    config = SimpleNamespace(**CONFIG)
    with pytest.raises(PreflightError, match=r"lat\(layers=7\).*no such block"):
        preflight("npo + lat(layers=[0, 7])", parse("npo + lat(layers=[0, 7])", 3), small_task(), memoriser().encoder,
                  config, RunSettings(epochs=1, batch_size=4))
    with pytest.raises(Exception, match="cannot be combined with lora"):
        parse("npo + saf + lora", 3)


def masked_gradients(recipe: str) -> tuple[Gradients, Scope]:
    """Gradients of a step under a random mask of a tenth of every matrix."""
    subject = fresh(moved())
    stage = parse(recipe, 3)[0]
    names = tuple(n for n, p in subject.model.named_parameters() if p.dim() == 2)
    draw = torch.Generator().manual_seed(0)
    masks = {n: torch.rand(p.shape, generator=draw) < 0.1 for n, p in subject.model.named_parameters() if n in names}
    scope = Scope(subject, names, masks)
    task = small_task()
    method = StageMethod(stage, subject, task, task.forget, task.retain, 0)
    batches = batches_of(subject, draws_of(stage, subject))
    reference = reference_for(stage, memoriser(), batches)
    return gradients(method, subject, scope, reference, [batches], True, Accelerator()), scope


def test_gradients_are_of_what_may_move() -> None:
    """Outside the mask they are 0, so that lengths, clipping and the products of combiners are of the move itself."""
    found, scope = masked_gradients("npo + retain_nll + blur")
    for side in (found.forget, found.retain):
        for (name, mask), part in zip(scope.masks.items(), side, strict=True):
            assert bool((part[~mask] == 0).all()) and bool((part[mask] != 0).any()), name
    for combiner in (BLUR(), PCGrad(), GU(form="gradient")):
        update = combiner(found.forget, found.retain)
        assert all(bool((u[~m] == 0).all()) for u, m in zip(update, scope.masks.values(), strict=True))
    inside = inner(BLUR()(found.forget, found.retain), found.forget)
    assert inside == pytest.approx(inner(found.forget, found.forget), rel=1e-4)


def test_directions_stay_within_the_mask() -> None:
    parameter, mask = torch.zeros(40, 50), torch.zeros(40, 50, dtype=torch.bool)
    mask[:4] = True
    (drawn,) = Directions([parameter], [3], [1.0], masks=[mask])
    assert bool((drawn[~mask] == 0).all()) and float(drawn.norm()) == pytest.approx(200 ** 0.5, rel=1e-5)


def test_a_combiner_never_sees_what_a_step_is_refused_for() -> None:
    """A multiplier that met NaN would be no multiplier for the run that goes on."""
    assert ascended(1.0, float("nan"), 0.3, 5.0) != ascended(1.0, float("nan"), 0.3, 5.0)
    seen: list[float] = []

    def prepare(scope: Scope, method: StageMethod) -> None:
        real = method.terms

        def terms(step: Step, only: Role | None = None) -> list[WeightedTerm]:
            return [replace(t, term=replace(t.term, sum_B=t.term.sum_B * float("nan"))) for t in real(step, only)]

        method.terms = terms  # type: ignore[method-assign]
        method.combine = lambda *a: seen.append(1.0)  # type: ignore[assignment,method-assign]

    with pytest.raises(NonFiniteError):
        train("npo + retain_nll + pdu", steps=1, prepare=prepare)
    assert not seen


@pytest.mark.parametrize("recipe", ["uld >> npo", "uld >> uld", "npo >> sisa >> npo", "uld >> ssd"])
def test_what_a_wrap_has_made_is_refused_before_anything_runs(recipe: str) -> None:
    with pytest.raises(PreflightError, match="cannot start from a model that"):
        preflight(recipe, parse(recipe, 3), small_task(), memoriser().encoder, memoriser().model.config,
                  RunSettings(steps=1, batch_size=2))


def test_perturbations_that_backpropagate_need_backpropagation() -> None:
    for recipe in ("npo + lat + zeroth_order", "npo + lat + hybrid", "wga + zeroth_order"):
        with pytest.raises(PreflightError, match="cannot be combined"):
            preflight(recipe, parse(recipe, 3), small_task(), memoriser().encoder, memoriser().model.config,
                      RunSettings(steps=1, batch_size=2))
