"""Promises of the token-weighted family: what each token's weight is, where it fades, what it reduces to.

Legend: B rows, N supervised tokens (flat), V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cached_property
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from expunge.data.text_encoder import TokenRow, collate
from expunge.methods._lib.weighted_likelihood import WeightedLikelihood, log1mexp
from expunge.methods.base import Objective
from expunge.methods.objectives.ga import GradientAscent
from expunge.methods.objectives.npo import NPO
from expunge.models.answers import Answers

from .. import support
from .base import check, term
from .dynamics import retain_at
from .objectives import Canned, canned_answers, token_weights

Law = Callable[[Any, Tensor, Tensor, Answers], Tensor]


def _answer_product(p_N: Tensor, answers: Answers) -> Tensor:
    """The product of each answer's values, at every one of its tokens."""
    return answers.per_row(p_N.log()).exp()[answers.batch.row_N]


def _npo(spec: Any, p_N: Tensor, p0_N: Tensor, answers: Answers) -> Tensor:
    now, before = (_answer_product(values_N, answers) ** spec.beta for values_N in (p_N, p0_N))
    return 2 * now / (now + before)


def _simnpo(spec: Any, p_N: Tensor, p0_N: Tensor, answers: Answers) -> Tensor:
    n_N = answers.per_row(torch.ones_like(p_N))[answers.batch.row_N]
    loss_N = -answers.per_row(p_N.log())[answers.batch.row_N] / n_N
    return 2 / n_N / (1 + (spec.beta * (loss_N - spec.delta)).exp())


def _catnip(spec: Any, p_N: Tensor, p0_N: Tensor, answers: Answers) -> Tensor:
    n_N = answers.per_row(torch.ones_like(p_N))[answers.batch.row_N]
    w_N = 2 * p_N**spec.beta / (p_N**spec.beta + (1 - p_N) ** spec.beta)
    return w_N / n_N / (1 if spec.detach_reference else 1 - p_N)


LAWS: dict[str, Law] = {
    "ga": lambda spec, p, p0, answers: torch.ones_like(p),
    "wga": lambda spec, p, p0, answers: p**spec.alpha,
    "tnpo": lambda spec, p, p0, answers: 2 * p**spec.beta / (p**spec.beta + p0**spec.beta),
    "wtnpo": lambda spec, p, p0, answers: 2 * p ** (spec.beta + spec.alpha) / (p**spec.beta + p0**spec.beta),
    "satimp": lambda spec, p, p0, answers: p**spec.beta1 * (1 - p) ** spec.beta2,
    "unlikelihood": lambda spec, p, p0, answers: p / (1 - p),
    "catnip": _catnip,
    "npo": _npo,
    "simnpo": _simnpo,
}
"""The family's table, in powers of probabilities: dL/dlog p of every token before the mean, in float64."""


@check
def weight_is(plugin: type[Objective], options: dict[str, Any] | None = None) -> None:
    """dL/dlog p of every token is the table's, on a model that has moved; so no weight is differentiated."""
    stage, answers = support.stage_of(term(plugin, options)), None
    for steps in (3, 8):
        found_N = token_weights(stage, support.moved(steps), support.memoriser())
        batch = support.batches_of(support.moved(steps), support.draws_of(stage, support.moved(steps)))["forget"]
        with torch.no_grad():
            answers, before = support.moved(steps).answers(batch), support.memoriser().answers(batch)
        p_N, p0_N = (a.logp_N.double().exp() for a in (answers, before))
        assert stage.objective is not None and found_N.min() >= 0
        expected_N = LAWS[plugin.card.name](stage.objective.spec, p_N, p0_N, answers)
        torch.testing.assert_close(found_N.double(), expected_N, rtol=1e-3, atol=1e-7)
    assert answers is not None and answers.logp_N.exp().min() < 0.05, "no token was unlikely"


class Float64Answers(Answers):
    """Answers that keep float64."""

    @cached_property
    def logp_N(self) -> Tensor:
        return -F.cross_entropy(self.logits_NV, self.batch.target_N, reduction="none")


def pushes(objective: Objective, p_N: Tensor, on: str = "logp") -> Tensor:
    """Length of the gradient by log p, or on the logits, of tokens with these probabilities; shape N."""
    logits_NV = torch.stack([p_N.double().log(), torch.log1p(-p_N.double())], -1).requires_grad_(True)
    rows = [TokenRow("row", (1, *[0] * len(p_N)), 1, len(p_N), 0)]
    answers = Float64Answers(collate(rows, 0), logits_NV)
    (found,) = objective.terms(Canned({"forget": answers}, {})).values()
    by_NV = torch.autograd.grad(found.sum_B.sum(), logits_NV if on == "logits" else answers.logp_N)[0]
    return by_NV.norm(dim=-1) if on == "logits" else by_NV


@check
def spares_unlikely(plugin: type[Objective], share: float, options: dict[str, Any] | None = None,
                    on: str = "logp") -> None:
    """Tokens below p = 0.05 get on average less than this share of the push on those from 0.9 up; ga's do not."""
    unlikely, likely = torch.linspace(0.001, 0.05, 50), torch.linspace(0.9, 0.999, 50)

    def ratio(objective: Objective) -> float:
        low, high = pushes(objective, torch.cat([unlikely, likely]), on).split(50)
        return float(low.mean() / high.mean())

    assert 0 < ratio(plugin(**(options or {}))) < share
    assert ratio(GradientAscent()) > 0.99


@check
def peaks_between(plugin: type[Objective]) -> None:
    """No push at p = 0 and p = 1, and most at beta1 / (beta1 + beta2)."""
    for beta1, beta2 in ((5.0, 1.0), (2.0, 3.0)):
        objective = plugin(beta1=beta1, beta2=beta2)
        assert isinstance(objective, WeightedLikelihood)
        ends = objective.weight(torch.tensor([-torch.inf, 0.0]), None)
        assert ends.tolist() == [0, 0]
        p_N = torch.linspace(0.001, 0.999, 999)
        found_N = pushes(objective, p_N)
        assert p_N[found_N.argmax()].item() == pytest.approx(beta1 / (beta1 + beta2), abs=0.001)
        rising = found_N.diff() > 0
        assert rising[:int(found_N.argmax())].all() and not rising[int(found_N.argmax()):].any()
    assert plugin().spec.beta1 / (plugin().spec.beta1 + plugin().spec.beta2) == pytest.approx(0.833, abs=1e-3)


@check
def finite_at_the_edges(plugin: type[Objective], options: dict[str, Any] | None = None) -> None:
    """Impossible and certain tokens give finite values and gradients; what is not a number stays visible."""
    inf, logits = torch.inf, torch.tensor([0.0, 1e-7, 1e-3, 0.5, 5, 17, 40, 88, 104, 1e4])
    gap_N = torch.cat([logits, -logits, torch.tensor([inf, -inf])])
    logits_NV = torch.stack([gap_N.clamp(-inf, 0), -gap_N.clamp(0, inf)], -1).requires_grad_(True)
    rows = [TokenRow("row", (1, *[0] * len(gap_N)), 1, len(gap_N), 0)]

    def value_of(logits_NV: Tensor) -> Tensor:
        answers = Answers(collate(rows, 0), logits_NV)
        before_N = torch.full((len(gap_N),), -0.7)
        (found,) = plugin(**(options or {})).terms(Canned({"forget": answers}, {id(answers.batch): before_N})).values()
        return found.sum_B

    value_B = value_of(logits_NV)
    (by_NV,) = torch.autograd.grad(value_B.sum(), logits_NV)
    assert bool(value_B.isfinite().all() and (value_B < 0).all())
    assert bool(by_NV.isfinite().all()) and bool((by_NV[:, 0] >= 0).all())
    broken = logits_NV.detach().clone()
    broken[3] = torch.nan
    assert bool(value_of(broken).isnan().all()), "a value that is no number was hidden"


@check(trains=True)
def settles_at_zero(plugin: type[Objective]) -> None:
    """The loss converges to 0 from below while the answers are forgotten; ga's falls for ever."""
    values, ascent = ([line["loss"] for line in support.trained(name, steps=60, lr=1e-3).lines]
                      for name in (term(plugin), "ga"))
    lines = support.trained(term(plugin), steps=60, lr=1e-3).lines
    assert max(values) <= 0 and min(values[-10:]) > 1e-3 * min(values), values
    assert lines[-1]["forget_nll"] > lines[0]["forget_nll"] + 2, "nothing was forgotten"
    assert ascent[-1] == min(ascent) < -math.log(support.memoriser().model.config.vocab_size)


@check(trains=True)
def drifts_less(plugin: type[Objective], levels: tuple[float, ...], options: dict[str, Any] | None = None,
                beside: str = "") -> None:
    """At these forget losses (nats per token) retain answers have lost less than under ga, `beside` added to both."""
    mine, theirs = (support.trained(" + ".join(filter(None, (name, beside))), steps=20, lr=1e-3, watch=1)
                    for name in (term(plugin, options), "ga"))
    for level in levels:
        assert retain_at(mine, level) < 0.95 * retain_at(theirs, level), level


@check
def mirrors_ascent(plugin: type[Objective]) -> None:
    """dL/dz_y = p_y and dL/dz_v = -p_v p_y / (1 - p_y) on real logits; gradient ascent has 1 - p_y and -p_v."""
    batch = support.batch_of(support.moved(), support.small_task().forget[:4])
    with torch.no_grad():
        seen_NV = torch.cat([s.answers(batch).logits_NV for s in (support.memoriser(), support.moved(8))])
    target_N = batch.target_N.repeat(2)
    rows = [TokenRow("row", (1, *target_N.tolist()), 1, len(target_N), 0)]
    found = {}
    for name, objective in (("mine", plugin()), ("ga", GradientAscent())):
        logits_NV = seen_NV.clone().requires_grad_(True)
        answers = Answers(collate(rows, 0), logits_NV)
        (value,) = objective.terms(Canned({"forget": answers}, {})).values()
        found[name] = torch.autograd.grad(value.sum_B.sum(), logits_NV)[0]
    p_NV = seen_NV.double().softmax(-1)
    true_NV = F.one_hot(target_N, p_NV.shape[1]).bool()
    p_N = p_NV[true_NV][:, None]
    assert p_N.min() < 0.05 and p_N.max() > 0.99
    mine_NV = torch.where(true_NV, p_N, -p_NV * p_N / (1 - p_N))
    # Of 1 - p, float32 knows little more than three digits where p is 0.9999.
    torch.testing.assert_close(found["mine"].double(), mine_NV, rtol=2e-3, atol=1e-4)
    torch.testing.assert_close(found["ga"].double(), torch.where(true_NV, 1 - p_N, -p_NV), rtol=1e-3, atol=1e-6)


@check
def derives_from_its_loss(plugin: type[Objective]) -> None:
    """The weights are d/dlog p of (2/beta) log(1 + (p / r)^beta), r = 1 - p held or not."""
    logp_N = torch.linspace(0.001, 0.999, 99, dtype=torch.float64).log().requires_grad_(True)
    for beta in (0.1, 1.0, 2.0):
        for held in (True, False):
            doubt_N = torch.log(1 - logp_N.exp())
            loss_N = 2 / beta * F.softplus(beta * (logp_N - (doubt_N.detach() if held else doubt_N)))
            (expected_N,) = torch.autograd.grad(loss_N.sum(), logp_N)
            found_N = plugin(beta=beta, detach_reference=held).weight(logp_N.detach(), None)  # type: ignore[attr-defined]
            torch.testing.assert_close(found_N, expected_N)


@check
def doubles_unlikelihood(plugin: type[Objective]) -> None:
    """With beta 1 and nothing held the gradient is twice unlikelihood's, in direction and length.

    One answer at a time, where the two ways to take the mean are one; and twice it is 2 (-log(1 - p)).
    """
    recipe = term(plugin, {"beta": 1.0, "detach_reference": False})
    for draw in support.draws_of(recipe, support.moved(), 3):
        batches = [support.batches_of(support.moved(), [draw])]
        mine = support.gradient(recipe, support.moved(), batches=batches).total()
        theirs = support.gradient("unlikelihood", support.moved(), batches=batches).total()
        assert support.cosine(mine, theirs) > 0.9999
        assert float(support.flat(mine).norm() / support.flat(theirs).norm()) == pytest.approx(2, rel=1e-4)
        held = support.gradient(term(plugin, {"beta": 1.0}), support.moved(), batches=batches).total()
        assert support.distance(held, mine) > 0.1, "the option does nothing"


@check
def weighs_confidence(plugin: type[Objective]) -> None:
    """Weight 1 at p = 0.5, near 2 and 0 at the ends, and growing all the way."""
    for beta in (0.1, 0.5, 1.0, 2.0):
        p_N = torch.tensor([1e-12, 0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99, 1 - 1e-6], dtype=torch.float64)
        found_N = plugin(beta=beta).weight(p_N.log(), None)  # type: ignore[attr-defined]
        assert found_N[4].item() == pytest.approx(1)
        assert bool((found_N.diff() > 0).all())
        assert found_N[0] < 0.12 and found_N[-1] > 2 - 0.41, f"beta={beta}"
    ends = [float(plugin(beta=1.0).weight(torch.tensor([v]), None)) for v in (-60.0, 0.0)]  # type: ignore[attr-defined]
    assert ends == pytest.approx([0, 2], abs=1e-5)
    logp_N = torch.tensor([-1e-3, -0.6, -0.7, -5, -50], dtype=torch.float64)
    torch.testing.assert_close(log1mexp(logp_N.float()).double(), torch.log1p(-logp_N.exp()), rtol=1e-5, atol=0)


@check(trains=True)
def one_forward_a_step(plugin: type[Objective]) -> None:
    """A training step runs a model once: its own, on the forget rows."""
    subject, calls = support.fresh(), []
    stage = support.stage_of(term(plugin))
    assert support.reference_for(stage, subject, {}) is None and not stage.retain
    subject.model.register_forward_hook(lambda *a: calls.append(a[0]))
    support.train(stage, subject=subject, steps=3)
    assert calls == [subject.model] * 3


@check
def repetition_changes_nothing(plugin: type[Objective]) -> None:
    """An answer whose every token comes twice has the same loss; npo's changes."""
    logp_N = torch.linspace(-3, -0.01, 7)

    def value(objective: Objective, times: int) -> float:
        answers = canned_answers(logp_N.repeat(times), (7 * times,))
        (found,) = objective.terms(Canned({"forget": answers}, {id(answers.batch): answers.logp_N - 0.2})).values()
        return float(found.sum_B)

    for beta in (0.1, 1.0):
        assert value(plugin(beta=beta), 2) == pytest.approx(value(plugin(beta=beta), 1), rel=1e-5)
        assert abs(value(NPO(beta=beta), 2) - value(NPO(beta=beta), 1)) > 0.01
