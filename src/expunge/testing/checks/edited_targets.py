"""Promises of objectives that learn an edited distribution: PROD, POP.

Legend: N supervised tokens (flat), V vocabulary.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from expunge.methods._lib.edited_teacher import distribution, nucleus
from expunge.methods.base import Objective
from expunge.methods.objectives.pop import others_moved, pushed_out
from expunge.methods.objectives.prod import prod
from expunge.models.answers import Answers

from ..support import batch_of, fresh, gradient, loss, memoriser, moved, small_task, train
from .base import check, term


def original_answers() -> Answers:
    with torch.no_grad():
        return memoriser().answers(batch_of(memoriser(), small_task().forget[:6]))


def random_logits(count: int = 40, size: int = 11) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits_NV = 3 * torch.randn(count, size, generator=generator, dtype=torch.float64)
    return logits_NV, torch.randint(size, (count,), generator=generator)


@check
def target_without_truth(plugin: type[Objective]) -> None:
    """It sums to 1 and is 0 at the truth; with top_p 1 the odds of all other tokens are the original's."""
    for logits_NV, target_N in (random_logits(), (original_answers().logits_NV, original_answers().batch.target_N)):
        true_NV = F.one_hot(target_N, logits_NV.shape[1]).bool()
        for top_p in (0.2, 0.8, 1.0):
            target_NV = distribution(prod(logits_NV, target_N, top_p, None, 1.0))
            torch.testing.assert_close(target_NV.sum(-1), torch.ones_like(target_NV[:, 0]))
            assert bool((target_NV[true_NV] == 0).all())
        left_NV = logits_NV.softmax(-1).masked_fill(true_NV, 0.0)
        expected_NV = left_NV / left_NV.sum(-1, keepdim=True)
        torch.testing.assert_close(target_NV, expected_NV.to(target_NV.dtype), rtol=1e-4, atol=1e-6)
        hot_NV, cold_NV = (distribution(prod(logits_NV, target_N, 0.8, None, t)) for t in (4.0, 0.25))
        assert torch.equal(hot_NV > 0, distribution(prod(logits_NV, target_N, 0.8, None, 1.0)) > 0)
        assert bool((hot_NV.max(-1).values <= cold_NV.max(-1).values).all())


@check
def nucleus_by_hand(plugin: type[Objective]) -> None:
    """Token by token in a plain loop; at most max_tokens, at least one, and the first of equals."""
    logits_NV, _ = random_logits()
    for top_p, most in ((0.1, None), (0.5, None), (0.8, None), (0.99, None), (0.8, 2), (1.0, 3), (1e-9, None)):
        kept_NV = nucleus(logits_NV, top_p, most) > -torch.inf
        for logits_V, kept_V in zip(logits_NV.numpy(), kept_NV.numpy(), strict=True):
            p_V, total, expected = np.exp(logits_V) / np.exp(logits_V).sum(), 0.0, set[int]()
            for token in np.argsort(-p_V, kind="stable"):
                if total > top_p or len(expected) == (most or len(p_V)):
                    break
                expected.add(int(token))
                total += p_V[token]
            assert set(np.flatnonzero(kept_V)) == expected
    assert torch.equal(nucleus(logits_NV, 1.0), logits_NV)
    assert (nucleus(torch.zeros(1, 5), 0.5) == 0).tolist() == [[True, True, True, False, False]]


@check
def adds_ascent(plugin: type[Objective]) -> None:
    """The loss with alpha is that without, plus the mean of alpha p0 log p; it has no lower bound."""
    assert plugin(alpha=0.1).unbounded and not plugin().unbounded
    plain, more = (gradient(term(plugin, {"alpha": alpha}), moved(), original=memoriser()) for alpha in (0.0, 0.3))
    batch = batch_of(memoriser(), small_task().forget)
    with torch.no_grad():
        p0_N, logp_N = memoriser().answers(batch).logp_N.exp(), moved().answers(batch).logp_N
    assert more.values["prod"] == plain.values["prod"] and "prod_ascent" not in plain.values
    rows = gradient(term(plugin, {"alpha": 0.3}), moved(), original=memoriser(),
                    batches=[{"forget": batch}]).values["prod_ascent"]
    assert rows == pytest.approx(float((0.3 * p0_N * logp_N).mean()), rel=1e-4)


@check(trains=True)
def keeps_order_of_others(plugin: type[Objective], steps: int, lr: float) -> None:
    """Median p of the truth below 1e-3 on three rows; the nucleus keeps the original's order (rank correlation)."""
    rows = small_task().forget[:3]
    subject = train(term(plugin), steps=steps, lr=lr, forget=rows, batch_size=3).subject
    batch = batch_of(subject, rows)
    with torch.no_grad():
        before, after = memoriser().answers(batch), subject.answers(batch)
    target_NV = distribution(prod(before.logits_NV, batch.target_N, plugin().spec.top_p, None, 1.0))
    assert float(after.logp_N.exp().median()) < 1e-3
    found = []
    for target_V, logits_V in zip(target_NV, after.logits_NV, strict=True):
        if int((target_V > 0).sum()) >= 5:
            ranks = [values[target_V > 0].argsort().argsort().double() for values in (target_V, logits_V)]
            found.append(float(torch.corrcoef(torch.stack(ranks))[0, 1]))
    assert len(found) >= 10 and float(np.mean(found)) > 0.9, (len(found), np.mean(found))


@check
def holds_other_odds(plugin: type[Objective]) -> None:
    """However far the logit of the truth has moved, the second part is 0; it grows when another moves. The first part
    pulls a certain token too."""
    logits_NV, target_N = random_logits()
    true_N1 = target_N[:, None]
    for change in (-20.0, 3.0, 20.0):
        away_NV = logits_NV.scatter_add(1, true_N1, torch.full_like(logits_NV, change)).requires_grad_(True)
        assert float(others_moved(logits_NV, away_NV, target_N).detach().abs().max()) < 1e-9
        by_NV = torch.autograd.grad(pushed_out(away_NV, target_N).sum(), away_NV)[0]
        p_N = away_NV.detach().softmax(-1).gather(1, true_N1)[:, 0]
        torch.testing.assert_close(by_NV.gather(1, true_N1)[:, 0], p_N)
        torch.testing.assert_close(pushed_out(away_NV, target_N).detach(), -torch.log1p(-p_N), rtol=1e-5, atol=1e-9)
    other_N1 = (true_N1 + 1) % logits_NV.shape[1]
    moved_NV = logits_NV.scatter_add(1, other_N1, torch.ones_like(logits_NV))
    assert bool((others_moved(logits_NV, moved_NV, target_N) > 0).all())
    certain_NV = torch.tensor([[60.0, 0.0, 0.0]], requires_grad=True)
    (by_NV,) = torch.autograd.grad(pushed_out(certain_NV, torch.tensor([0])).sum(), certain_NV)
    assert by_NV[0].tolist() == pytest.approx([1.0, -0.5, -0.5])


@check(trains=True)
def survives_batches(plugin: type[Objective], batches: int, steps: int, lr: float) -> None:
    """Deletions in sequence: retain tokens that are still the first choice, beside ga with as many steps."""
    task, found = small_task(), {}
    for recipe in (term(plugin), "ga"):
        subject = fresh()
        for number in range(batches):
            part = task.forget[number::batches]
            train(recipe, subject=subject, forget=part, steps=steps, lr=lr, batch_size=len(part))
        with torch.no_grad():
            kept = subject.answers(batch_of(subject, task.retain))
        hits_N = kept.logits_NV.argmax(-1) == kept.batch.target_N
        found[recipe] = float(hits_N.double().mean()), loss(subject, task.forget)
    (mine, forgot), (theirs, _) = found.values()
    assert forgot > 1.0 and mine > theirs + 0.3, found
