"""Promises of objectives about a single step: values, gradients and weights of tokens.

Legend: B rows, N supervised tokens (flat), T padded length, D hidden size, V vocabulary.
"""

from __future__ import annotations

import gc
import math
import sys
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from expunge.data.text_encoder import TokenBatch, TokenRow, collate
from expunge.methods._lib.weighted_likelihood import sequence_logp, sequence_mean
from expunge.methods.base import Objective
from expunge.methods.objectives.npo import NPO
from expunge.methods.objectives.rmu import control_vector
from expunge.methods.recipe import Stage
from expunge.models.answers import Answers
from expunge.models.language import CausalLM
from expunge.plugin import Card
from expunge.training.step import Step, Term

from ..support import (
    batch_of,
    batches_of,
    cosine,
    distance,
    draws_of,
    flat,
    fresh,
    gradient,
    memoriser,
    moved,
    reference_for,
    small_task,
    stage_of,
    step_for,
    train,
    trained,
    weights,
)
from .base import check, term


class SequenceAscent(Objective):
    """Gradient ascent on the sum over each answer, averaged over answers: what NPO becomes."""

    card = Card(name="ga_sequence", kind="objective", summary="only in tests")
    reads = ("forget",)

    def terms(self, step: Step) -> dict[str, Term]:
        return {"ga_sequence": sequence_mean(sequence_logp(step.answers("forget")), "forget")}


def stage_with(other: str, like: Stage) -> Stage:
    """`other` in place of the objective; it may be one that only the tests know."""
    if other == SequenceAscent.card.name:
        return replace(like, objective=SequenceAscent())
    return replace(like, objective=stage_of(other).objective)


def token_weights(stage: Stage, subject: CausalLM, original: CausalLM) -> Tensor:
    """dL/d log p of every forget token, before the mean over rows; shape N."""
    subject = fresh(subject)
    subject.model.requires_grad_(True)
    step = step_for(stage, subject, batches_of(subject, draws_of(stage, subject)), original)
    assert stage.objective is not None
    (found,) = stage.objective.terms(step).values()
    return torch.autograd.grad(found.sum_B.sum(), step.answers("forget").logp_N)[0]


class Canned(Step):
    """A step whose answers and reference log-probs are given rather than computed."""

    def __init__(self, answers: Mapping[str, Answers], logp: Mapping[int, Tensor]) -> None:
        self._answers = dict(answers)
        self.batches = {side: a.batch for side, a in answers.items()}
        self._logp = logp

    @property
    def reference(self) -> Any:
        return self

    def logp(self, batch: TokenBatch) -> Tensor:
        return self._logp[id(batch)]


def canned_answers(logp_N: Tensor, lengths: tuple[int, ...]) -> Answers:
    """Answers over two tokens whose first has exactly these log-probs; `logp_N` may carry a gradient."""
    rows = [TokenRow(f"row{i}", (1, *[0] * n), 1, n, 0) for i, n in enumerate(lengths)]
    logits_NV = torch.stack([logp_N, torch.log1p(-logp_N.exp())], dim=-1)
    return Answers(collate(rows, 0), logits_NV)


@check
def gradient_is_minus(plugin: type[Objective], other: str) -> None:
    """The gradient is bit for bit the negative of `other`'s on the same rows."""
    draws = draws_of(term(plugin), memoriser())
    batch = batches_of(memoriser(), draws)["forget"]
    mine = gradient(term(plugin), moved(), batches=[{"forget": batch}])
    theirs = gradient(other, moved(), batches=[{"retain": batch}])
    assert flat(mine.total()).norm() > 0
    assert torch.equal(flat(mine.total()), -flat(theirs.total()))


@check
def loss_at_start(plugin: type[Objective], per_beta: float) -> None:
    """(per_beta / beta) log 2 while the model is its reference."""
    for beta in (0.05, 0.1, 1.0):
        found = gradient(term(plugin, {"beta": beta}), memoriser()).values[plugin.card.name]
        assert found == pytest.approx(per_beta / beta * math.log(2), rel=1e-4)


@check(trains=True)
def reduces_to(plugin: type[Objective], other: str, options: dict[str, Any] | None = None, recipe: str = "",
               at: str = "start", exact: bool = False) -> None:
    """The forget gradient is that of `other`, in direction and length.

    Args:
        options: of the plug-in; or a whole `recipe` that it is part of.
        at: "start", where the model is its reference, or "moved", where it no longer is.
        exact: bit for bit, and so are the weights after three steps.
    """
    subject = memoriser() if at == "start" else moved()
    mine = stage_of(recipe or term(plugin, options))
    theirs = stage_with(other, replace(mine, retain=()))
    batches = [batches_of(subject, draws_of(mine, subject))]
    mine_grad = gradient(mine, subject, original=memoriser(), batches=batches, separate=True).forget
    forget = [{"forget": batches[0]["forget"]}]
    their_grad = gradient(theirs, subject, original=memoriser(), batches=forget, separate=True).forget
    assert cosine(mine_grad, their_grad) > 0.9999
    assert float(flat(mine_grad).norm() / flat(their_grad).norm()) == pytest.approx(1, rel=2e-3)
    if exact:
        assert torch.equal(flat(mine_grad), flat(their_grad))
        ends = [weights(train(stage, steps=3).subject) for stage in (mine, stage_of(other))]
        assert all(torch.equal(ends[0][n], ends[1][n]) for n in ends[0])


@check(trains=True)
def no_reference(plugin: type[Objective]) -> None:
    """No second model: none is asked for, and none comes into being while it trains."""
    assert not [need for need in plugin.card.needs if need.startswith("reference.")]

    def models() -> int:
        gc.collect()
        return sum(type(o) is type(memoriser().model) for o in gc.get_objects())

    subject, seen, stage = fresh(), list[int](), stage_of(term(plugin))
    gc.freeze()  # what is there already is not looked at, so that counting is quick
    try:
        train(stage, subject=subject, steps=2, on_step=lambda line: seen.append(models()))
    finally:
        gc.unfreeze()
    assert seen == [0, 0], "another model came into being"
    assert reference_for(stage, subject, {}) is None


@check
def length_blind(plugin: type[Objective]) -> None:
    """Answers of equal mean loss get equal weight whatever their length; NPO's do not."""
    lengths, logp_N = (3, 12), torch.full((15,), -0.7, dtype=torch.float64, requires_grad=True)

    def pushes(objective: Objective) -> list[float]:
        answers = canned_answers(logp_N, lengths)
        step = Canned({"forget": answers}, {id(answers.batch): torch.zeros(15)})
        (found,) = objective.terms(step).values()
        # In units of the mean loss, which is what all tokens of a row share.
        return [float(part.sum()) for part in torch.autograd.grad(found.sum_B.sum(), logp_N)[0].split(lengths)]

    short, long = pushes(plugin())
    assert short == pytest.approx(long, rel=1e-5)
    short, long = (push / n for push, n in zip(pushes(NPO(beta=0.5)), lengths, strict=True))
    assert abs(short - long) > 0.1 * abs(short)


@check
def without_chosen_is_npo(plugin: type[Objective], beta: float = 0.3) -> None:
    """With the refusal held at its reference, value and gradient are NPO's."""
    torch.manual_seed(0)
    before = torch.linspace(-3, -0.1, 9)
    logp_N = torch.linspace(-0.2, -2, 9).requires_grad_(True)
    forget, refusal = canned_answers(logp_N, (4, 5)), canned_answers(torch.linspace(-4, -1, 6), (2, 4))
    step = Canned({"forget": forget, "refusal": refusal},
                  {id(forget.batch): before, id(refusal.batch): refusal.logp_N})
    found = []
    for objective in (plugin(beta=beta), NPO(beta=beta)):
        (value,) = objective.terms(step).values()
        found.append((value.sum_B, torch.autograd.grad(value.sum_B.sum(), logp_N, retain_graph=True)[0]))
    torch.testing.assert_close(found[0], found[1], rtol=1e-6, atol=1e-7)


@check
def zero_gradient_at_start(plugin: type[Objective], options: dict[str, Any]) -> None:
    """With these options nothing pulls while the model is its reference."""
    still = flat(gradient(term(plugin, options), memoriser()).total()).norm()
    usual = flat(gradient(term(plugin), memoriser()).total()).norm()
    assert still < 1e-5 * usual


@check
def weight_fades(plugin: type[Objective], most: float) -> None:
    """The weight of an answer stays in (0, most), is 1 at the reference and falls as it is forgotten."""
    stage = stage_of(term(plugin))
    torch.testing.assert_close(token_weights(stage, memoriser(), memoriser()).mean(), torch.tensor(1.0),
                               rtol=1e-3, atol=1e-3)
    seen = [token_weights(stage, moved(steps), memoriser()) for steps in (3, 8, 16, 32)]
    means = [float(w.mean()) for w in seen]
    assert all(float(w.min()) > 0 and float(w.max()) < most for w in seen)
    assert 1 > means[0] > means[1] > means[2] > means[3] and means[3] < 0.1
    risen = token_weights(stage, memoriser(), moved(16))  # above its reference, the weight nears its bound
    assert float(risen.mean()) > 1.5 and float(risen.max()) <= most


@check
def keeps_other_odds(plugin: type[Objective], strength: float = 10.0) -> None:
    """The target distribution moves the true token only: the odds among all others stay."""
    lowered = sys.modules[plugin.__module__].lowered
    with torch.no_grad():
        answers = memoriser().answers(batch_of(memoriser(), small_task().forget[:4]))
    target_N = answers.batch.target_N
    new_NV = lowered(answers.logits_NV.double(), target_N, strength).double().log()
    shift_NV = new_NV - answers.logits_NV.double().log_softmax(-1)
    true_N = shift_NV.gather(1, target_N[:, None])[:, 0]
    others = torch.ones_like(shift_NV, dtype=torch.bool).scatter(1, target_N[:, None], False)
    shift = shift_NV[others].view(len(target_N), -1)
    assert float((shift - shift[:, :1]).abs().max()) < 1e-3
    torch.testing.assert_close(shift[:, 0] - true_N, torch.full_like(true_N, strength), atol=1e-3, rtol=0)


@check(trains=True)
def stops_at_its_layer(plugin: type[Objective]) -> None:
    """Leaving the forward early gives the gradients of a forward that runs to the end."""

    def whole(self: CausalLM, batch: TokenBatch, block: int) -> Tensor:
        out = self.model(input_ids=batch.ids_BT, attention_mask=batch.attention_BT, output_hidden_states=True)
        assert 0 <= block < len(self.blocks) - 1, "the last entry has been through the final norm"
        return out.hidden_states[block + 1]

    def later(*args: Any) -> None:
        raise AssertionError("a block behind the layer was run")

    recipe = term(plugin)
    early = gradient(recipe, moved(), original=memoriser()).total()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CausalLM, "hidden", whole)
        late = gradient(recipe, moved(), original=memoriser()).total()
    assert distance(early, late) < 1e-6
    subject = fresh()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(list(subject.blocks.values())[-1], "forward", later)
        train(recipe, subject=subject, steps=1)


@check
def points_positive(plugin: type[Objective]) -> None:
    """Non-negative entries, the asked length, the same for the same seed; as far from another as U[0, 1) is."""
    a, b, again = (control_vector(512, 6.5, seed) for seed in (0, 1, 0))
    assert bool((a >= 0).all()) and float(a.norm()) == pytest.approx(6.5)
    assert torch.equal(a, again)
    assert float(torch.cosine_similarity(a, b, dim=0)) == pytest.approx(0.75, abs=0.05)
    subject, size = moved(), moved().model.config.hidden_size
    batches = batches_of(subject, draws_of(term(plugin, {"coefficient": 3.0}), subject, 2))
    with torch.no_grad():
        (found,) = plugin(coefficient=3.0).terms(step_for(stage_of(term(plugin)), subject, batches)).values()
        hidden_BTD = subject.hidden(batches["forget"], plugin().block(len(subject.blocks)))  # type: ignore[attr-defined]
    error_BT = (hidden_BTD - control_vector(size, 3.0, 0)).square().mean(-1)
    for i, row in enumerate(batches["forget"].rows):
        assert found.sum_B[i].item() == pytest.approx(error_BT[i, : len(row.ids)].sum().item(), rel=1e-5)


@check
def retain_term_starts_at_zero(plugin: type[Objective]) -> None:
    """The companions it brings cost nothing and pull nowhere before the first step."""
    found = gradient(term(plugin), memoriser(), separate=True)
    names = [p.card.name for p in stage_of(term(plugin)).retain]
    assert names and all(found.values[name] == pytest.approx(0, abs=1e-9) for name in names)
    assert flat(found.retain).norm() < 1e-6 * flat(found.forget).norm()


@check(trains=True)
def moves_only(plugin: type[Objective], modules: str) -> None:
    """Outside `modules` of the three blocks up to its own, every parameter keeps its bits."""
    assert modules == "mlp_out"
    before = weights(memoriser())
    subject = trained(term(plugin), steps=8, lr=1e-2).subject
    layer = plugin().block(len(subject.blocks))  # type: ignore[attr-defined]
    prefixes = list(subject.blocks)
    allowed = {f"{prefixes[i]}.mlp.down_proj.weight" for i in range(max(layer - 2, 0), layer + 1)}
    changed = {n for n, p in weights(subject).items() if not torch.equal(p, before[n])}
    assert changed == allowed
