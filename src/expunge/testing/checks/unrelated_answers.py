"""Promises of ascent with unrelated answers, and of the settings it was published with.

Legend: N supervised tokens (flat).
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from math import exp, log

import pytest
import torch

from expunge.methods._lib import divergence
from expunge.methods.base import Objective, Preset
from expunge.methods.objectives.llmu import mean_logp
from expunge.models.language import CausalLM
from expunge.plugin import Plugin
from expunge.records.task import Example

from ..support import (
    batch_of,
    batches_of,
    distance,
    draws_of,
    fresh,
    gradient,
    loss,
    memoriser,
    moved,
    small_task,
    stage_of,
    trained,
    weights,
)
from .base import check, term
from .builders import said_by

ASCENT_ONLY = " + retain_kl(weight=0)"


@check(trains=True)
def is_answer_ascent(plugin: type[Objective]) -> None:
    """Without the other two terms: ascent on the answer tokens, every row weighing the same."""
    recipe = term(plugin, {"ascent": 1.0, "mismatch": 0.0}) + ASCENT_ONLY
    draws = draws_of(recipe, moved(), 4)
    assert all(set(d) == {"forget"} for d in draws)
    mine = gradient(recipe, moved(), batches=[batches_of(moved(), draws)]).total()
    rows = [gradient("ga", moved(), batches=[batches_of(moved(), [d])]).total() for d in draws]
    assert distance(mine, [torch.stack(parts).mean(0) for parts in zip(*rows, strict=True)]) < 1e-5
    alone = batches_of(moved(), draws[:1])
    assert distance(gradient(recipe, moved(), batches=[alone]).total(), rows[0]) < 1e-6


@check
def weighs_two_terms(plugin: type[Objective]) -> None:
    """e1 * mean log p(answer) - e2 * mean over the unrelated answers, row by row and answer by answer."""
    recipe = term(plugin, {"answers": 3, "ascent": 0.5, "mismatch": 2.0}) + ASCENT_ONLY
    draws = draws_of(recipe, moved(), 3)
    mine = gradient(recipe, moved(), batches=[batches_of(moved(), draws)])
    subject = fresh(moved())
    parameters = tuple(subject.model.requires_grad_(True).parameters())
    sides = {side: torch.stack([mean_logp(subject.answers(batch_of(subject, [d[side]])))[0] for d in draws])
             for side in draws[0]}
    others = [value for side, value in sides.items() if side != "forget"]
    ascent, mismatch = 0.5 * sides["forget"].mean(), -2.0 * torch.stack(others).mean()
    assert len(others) == 3
    assert mine.values["llmu_ascent"] == pytest.approx(ascent.item(), rel=1e-4)
    assert mine.values["llmu_mismatch"] == pytest.approx(mismatch.item(), rel=1e-4)
    assert distance(mine.total(), torch.autograd.grad(ascent + mismatch, parameters)) < 1e-4


@check
def answers_are_benign(plugin: type[Objective]) -> None:
    """Distinct answers of retain rows to the forget question, others each time; repeated only when there are few."""
    task, made = small_task(), plugin()
    kept = {r.answer for r in task.retain}
    drawn = [made.sides(task.forget[0], task, random.Random(i)) for i in range(3)]
    for sides in drawn:
        assert tuple(sides) == made.reads and len(sides) == 6 and sides["forget"] == task.forget[0]
        others = [r for side, r in sides.items() if side != "forget"]
        assert all(r.prompt == task.forget[0].prompt and r.answer in kept for r in others)
        assert len({r.answer for r in others}) == 5
    assert len({tuple(r.answer for r in sides.values()) for sides in drawn}) == 3
    scarce = task.model_copy(update={"retain": task.retain[:2]})
    assert len(made.sides(task.forget[0], scarce, random.Random(0))) == 6
    assert made.unbounded and not plugin(ascent=0).unbounded


# The study's settings


def bleu(reference: str, text: str, longest: int = 2) -> float:
    """BLEU of one text over n-grams of 1 to `longest` words, with the brevity penalty, in 0..1."""
    expected, said, total = reference.lower().split(), text.lower().split(), 0.0
    for n in range(1, longest + 1):
        theirs, ours = (Counter(zip(*(words[i:] for i in range(n)), strict=False)) for words in (expected, said))
        hits = sum((theirs & ours).values())
        if not hits:
            return 0.0
        total += log(hits / sum(ours.values())) / longest
    return exp(total + min(0.0, 1 - len(expected) / len(said)))


def study(plugin: type[Plugin]) -> CausalLM:
    """What the preset makes of the memoriser in 60 steps of the study's batch size."""
    return trained(plugin.card.name, steps=60, batch_size=2).subject


@check(trains=True)
def unlearns_continuations(plugin: type[Preset], kl: float) -> None:
    """Continuations resemble the text less than what the original says of people it never met, and retain rows stay."""

    def resemblance(subject: CausalLM, rows: Sequence[Example]) -> float:
        return sum(bleu(r.answer, t) for r, t in zip(rows, said_by(subject, rows), strict=True)) / len(rows)

    task, subject = small_task(), study(plugin)
    assert resemblance(memoriser(), task.forget) > 0.95
    assert resemblance(subject, task.forget) < resemblance(memoriser(), task.holdout)
    batch = batch_of(subject, task.retain)
    with torch.no_grad():
        drift_N = divergence.kl(memoriser().answers(batch).logits_NV, subject.answers(batch).logits_NV)
    assert 0 < float(drift_N.mean()) < kl
    assert loss(memoriser(), [r.model_copy(update={"answer": t}) for r, t in
                              zip(task.forget, said_by(subject, task.forget), strict=True)]) < 6, "no gibberish"


@check(trains=True)
def adapter_alone_moves(plugin: type[Preset]) -> None:
    """The base keeps its bits, the adapter moved, its original is the model without it, and merging is exact."""
    subject, before = fresh(study(plugin)), weights(memoriser())
    stage = stage_of(plugin.card.name)
    assert stage.scope.adapter and (stage.scope.spec.rank, stage.scope.spec.alpha) == (16, 32)
    base = {n.removeprefix("base_model.model.").replace(".base_layer", ""): p for n, p in weights(subject).items()
            if "lora_" not in n}
    assert base.keys() == before.keys() and all(torch.equal(p, before[n]) for n, p in base.items())
    batch = batch_of(subject, small_task().forget[:5])
    with torch.no_grad():
        apart = subject.answers(batch).logits_NV
        with subject.model.disable_adapter():
            off = subject.answers(batch).logits_NV
        start = memoriser().answers(batch).logits_NV
        subject.model = subject.model.merge_and_unload()
        subject.renamed()
        merged = subject.answers(batch).logits_NV
    assert torch.equal(off, start) and float((apart - start).abs().max()) > 0.1
    torch.testing.assert_close(merged, apart, atol=1e-4, rtol=1e-4)
