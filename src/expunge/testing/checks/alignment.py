"""Promises of rows weighted by what forgetting them does to alignment."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import pytest
import torch

from expunge.errors import DataError, MissingError
from expunge.methods._lib.preferences import Pair, alignment
from expunge.methods.base import Objective
from expunge.methods.objectives.u2a import U2A, mirrored
from expunge.methods.run_context import RunContext
from expunge.models.language import CausalLM

from ..support import batch_of, fresh, memoriser, small_task
from .base import check
from .builders import few

STEP = 1e-3


def _pairs() -> list[Pair]:
    return U2A(outer=12).preferences(small_task(), 0)


def misaligned(subject: CausalLM, pairs: list[Pair]) -> float:
    """J relative to the memoriser."""
    with torch.no_grad():
        before = [tuple(float(memoriser().answers(batch_of(memoriser(), [row])).logp_N.sum()) for row in pair)
                  for pair in pairs]
        found = [alignment(subject, pair, (start[0], start[1]), 0.3) for pair, start in zip(pairs, before, strict=True)]
    return float(torch.stack(found).double().mean())


def unlearned(ids: tuple[str, ...], step: float) -> CausalLM:
    """The memoriser after one step of ascent on the mean token loss of these forget rows."""
    subject = fresh()
    parameters = list(subject.model.requires_grad_(True).parameters())
    rows = [row for row in small_task().forget if row.id in ids]
    answers = subject.answers(batch_of(subject, rows))
    grads = torch.autograd.grad(answers.row_means(answers.logp_N).mean(), parameters)
    with torch.no_grad():
        for parameter, grad in zip(parameters, grads, strict=True):
            parameter -= step * grad
    return subject


@check
def scores_foretell_alignment(plugin: type[Objective]) -> None:
    """The sign of the change of J after a small step on one row is that of minus its score, for most rows."""
    pairs, made = _pairs(), U2A(inner="ga", outer=12)
    scores = made.scores(memoriser(), small_task(), pairs)
    start = misaligned(memoriser(), pairs)
    right = [((misaligned(unlearned((id,), STEP), pairs) - start) < 0) == (score > 0) for id, score in scores.items()]
    assert sum(right) > 0.8 * len(right), right


@check
def best_rows_align_most(plugin: type[Objective]) -> None:
    """One step on the better half of the rows lowers J more than one on the other half."""
    pairs = _pairs()
    scores = U2A(inner="ga", outer=12).scores(memoriser(), small_task(), pairs)
    order = sorted(scores, key=lambda id: -scores[id])
    half = len(order) // 2
    best, worst = (misaligned(unlearned(tuple(ids), STEP), pairs) for ids in (order[:half], order[half:]))
    assert best < worst, (best, worst)


@check
def weights_sum_to_rows(plugin: type[Objective]) -> None:
    """Positive, in the order of the scores, with a sum of the number of rows; equal at rate 0; none for those left
    out."""
    scores = torch.tensor([3.0, -1.0, 0.5, 0.5])
    for rate in (0.0, 0.1, 5.0):
        found = mirrored(scores, rate, 3)
        assert float(found.sum()) == pytest.approx(4) and bool((found > 0).all())
        assert (found.argsort(descending=True)[0] == 0 and found[1] == found.min()) or rate == 0
    assert mirrored(scores, 0.0, 3).tolist() == [1.0] * 4 and mirrored(torch.ones(3), 1.0, 2).tolist() == [1.0] * 3
    # Three steps of the rule, by hand.
    weights, scaled = torch.ones(4), scores / scores.std(correction=0)
    for _ in range(3):
        weights = weights * (0.1 * scaled).exp()
        weights = 4 * weights / weights.sum()
    torch.testing.assert_close(mirrored(scores, 0.1, 3), weights)
    made = U2A(top=2, outer=6).prepare(fresh(), few(4), RunContext())
    assert json.loads(json.dumps(made)) == made and made["scores"].keys() == {r.id for r in few(4).forget}
    chosen = sorted(made["scores"], key=lambda id: -made["scores"][id])[:2]
    assert {id for id, weight in made["weights"].items() if weight} == set(chosen)
    assert sum(made["weights"].values()) == pytest.approx(2)


@check
def reads_pairs(plugin: type[Objective]) -> None:
    """A file of pairs is used as it stands; one that is missing, or holds another row, is refused."""
    path = Path(tempfile.mkstemp(suffix=".jsonl")[1])
    try:
        path.write_text(json.dumps({"prompt": "Why?", "chosen": "So.", "rejected": "No."}) + "\n", encoding="utf-8")
        made = U2A(pairs=str(path))
        ((better, worse),) = made.preferences(small_task(), 0)
        assert (better.prompt, better.answer, worse.answer) == ("Why?", "So.", "No.")
        assert not made.problems(small_task())
        path.write_text(json.dumps({"prompt": "Why?", "chosen": "So."}) + "\n", encoding="utf-8")
        assert isinstance(made.problems(small_task())[0], DataError)
    finally:
        path.unlink()
    assert isinstance(made.problems(small_task())[0], MissingError)
    ours = U2A(outer=500).preferences(few(3), 1)
    assert len(ours) == 3 + len(small_task().retain) and ours[0][1] == small_task().forget[0]
