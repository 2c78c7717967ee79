"""Options that published settings need: loss and gradient against formulas written out here, in float64.

Legend: B rows, N supervised tokens (flat), V vocabulary.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from expunge.data.text_encoder import TokenRow, collate
from expunge.data.word_tokens import marked_tokens
from expunge.errors import UsageError
from expunge.methods.base import Objective
from expunge.methods.objectives.npo import NPO
from expunge.methods.objectives.satimp import SatImp
from expunge.methods.objectives.tnpo import TNPO
from expunge.methods.objectives.undial import UNDIAL
from expunge.methods.objectives.wtnpo import WTNPO
from expunge.models.tiny import build_subject
from expunge.records.task import Example
from expunge.testing.checks.token_weights import Float64Answers
from expunge.testing.support import CONFIG, batches_of, draws_of, small_task

LENGTHS = (4, 1, 7)
V = 5


class Given:
    """A step over one batch of forget rows, for a model and an original with these logits (N V, float64)."""

    def __init__(self, logits_NV: Tensor, original_NV: Tensor, target_N: Tensor) -> None:
        parts = target_N.split(list(LENGTHS))
        rows = [TokenRow(f"row{i}", (1, *part.tolist()), 1, len(part), 0) for i, part in enumerate(parts)]
        batch = collate(rows, 0)
        self.batches = {"forget": batch}
        self.said = {"forget": Float64Answers(batch, logits_NV)}
        self.original = Float64Answers(batch, original_NV)
        self.subject: Any = None

    def answers(self, side: str) -> Float64Answers:
        return self.said[side]

    @property
    def reference(self) -> Any:
        return SimpleNamespace(logp=lambda batch: self.original.logp_N, answers=lambda batch: self.original)


def drawn(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Logits of a model, of its original, and the tokens that were right."""
    generator = torch.Generator().manual_seed(seed)
    n = sum(LENGTHS)
    logits_NV, original_NV = (3 * torch.randn(n, V, generator=generator, dtype=torch.float64) for _ in range(2))
    return logits_NV, original_NV, torch.randint(V, (n,), generator=generator)


def found(objective: Objective, logits_NV: Tensor, original_NV: Tensor, target_N: Tensor,
          subject: Any = None) -> tuple[Tensor, Tensor]:
    """Loss of the plug-in and its gradient on the logits."""
    free_NV = logits_NV.clone().requires_grad_(True)
    step: Any = Given(free_NV, original_NV, target_N)
    step.subject = subject
    (term,) = objective.terms(step).values()
    over = term.over(step.batches["forget"]) if callable(term.over) else step.batches["forget"].count(term.over)
    loss = term.sum_B.sum() / over
    return loss.detach(), torch.autograd.grad(loss, free_NV)[0]


def expected(formula: Any, logits_NV: Tensor, target_N: Tensor) -> tuple[Tensor, Tensor]:
    """Value and gradient of `formula(log p of the right tokens, logits)`."""
    free_NV = logits_NV.clone().requires_grad_(True)
    loss = formula(free_NV.log_softmax(-1)[torch.arange(len(target_N)), target_N], free_NV)
    return loss.detach(), torch.autograd.grad(loss, free_NV)[0]


def log_p(logits_NV: Tensor, target_N: Tensor) -> Tensor:
    return logits_NV.log_softmax(-1)[torch.arange(len(target_N)), target_N]


def same(mine: tuple[Tensor, Tensor], theirs: tuple[Tensor, Tensor]) -> None:
    torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("beta", [0.015, 0.1, 2.0])
@pytest.mark.parametrize("ratio", ["sum", "mean", "batch"])
def test_npo_takes_the_ratio_of_sums_of_means_or_of_the_batch(ratio: str, beta: float) -> None:
    logits_NV, original_NV, target_N = drawn()
    before_N = log_p(original_NV, target_N)

    def formula(now_N: Tensor, _: Tensor) -> Tensor:
        nll, nll0 = -now_N, -before_N
        if ratio == "batch":  # what a trainer's `loss` is: one mean over all labelled tokens
            return 2 / beta * torch.log(1 + torch.exp(-beta * (nll.mean() - nll0.mean())))
        rows = zip(nll.split(list(LENGTHS)), nll0.split(list(LENGTHS)), strict=True)
        gaps = [(a.sum() - b.sum()) if ratio == "sum" else (a.mean() - b.mean()) for a, b in rows]
        return torch.stack([2 / beta * torch.log(1 + torch.exp(-beta * gap)) for gap in gaps]).mean()

    same(found(NPO(beta=beta, ratio=ratio), logits_NV, original_NV, target_N),
         expected(formula, logits_NV, target_N))


@pytest.mark.parametrize("epsilon", [0.0, 1e-5, 0.1])
@pytest.mark.parametrize("alpha", [None, 1.5])
def test_tnpo_adds_epsilon_to_the_denominator(alpha: float | None, epsilon: float) -> None:
    logits_NV, original_NV, target_N = drawn(1)
    beta = 4.0
    before_N = log_p(original_NV, target_N).exp()

    def formula(now_N: Tensor, _: Tensor) -> Tensor:
        p = now_N.exp().detach()
        weight = 2 * p ** (beta + (alpha or 0.0)) / (p**beta + before_N**beta + epsilon)
        return (weight * now_N).mean()

    objective = TNPO(epsilon=epsilon) if alpha is None else WTNPO(epsilon=epsilon, alpha=alpha)
    same(found(objective, logits_NV, original_NV, target_N), expected(formula, logits_NV, target_N))


def test_tnpo_with_epsilon_is_finite_where_both_models_rule_a_token_out() -> None:
    from expunge.methods.objectives.tnpo import tnpo_weight

    never = torch.tensor([-torch.inf, -200.0, 0.0], dtype=torch.float64)
    weight = tnpo_weight(never, never, 4.0, 1e-5)
    assert weight.tolist() == pytest.approx([0.0, 0.0, 2 / (2 + 1e-5)])


@pytest.mark.parametrize("beta2", [0.1, 1.0])
def test_satimp_with_the_exponents_of_the_authors_and_of_the_port(beta2: float) -> None:
    logits_NV, original_NV, target_N = drawn(2)

    def formula(now_N: Tensor, _: Tensor) -> Tensor:
        p = now_N.exp().detach()
        return (p**5 * (1 - p) ** beta2 * now_N).mean()

    same(found(SatImp(beta2=beta2), logits_NV, original_NV, target_N), expected(formula, logits_NV, target_N))


@pytest.mark.parametrize(("focus", "others"), [(1.0, 1.0), (10.0, 1.0), (1.0, 0.0), (2.5, 2.5)])
def test_undial_weighs_the_tokens_in_focus(focus: float, others: float, monkeypatch: pytest.MonkeyPatch) -> None:
    logits_NV, original_NV, target_N = drawn(3)
    marks = torch.tensor([False, True, True, False, True, False, False, True, False, False, False, True])
    rows = iter([part.tolist() for part in marks.split(list(LENGTHS))])
    monkeypatch.setattr("expunge.methods.objectives.undial.marked_tokens", lambda *a: next(rows))
    objective = UNDIAL(strength=3.0, focus=focus, others=others)
    objective._words = {f"row{i}": ("word",) for i in range(len(LENGTHS))}

    def formula(_: Tensor, now_NV: Tensor) -> Tensor:
        lowered_NV = original_NV.clone()
        lowered_NV[torch.arange(len(target_N)), target_N] -= 3.0
        loss_N = -(lowered_NV.softmax(-1) * now_NV.log_softmax(-1)).sum(-1)
        return (loss_N * torch.where(marks, focus, others)).sum() / len(target_N)

    subject = SimpleNamespace(encoder=SimpleNamespace(processor=None))
    same(found(objective, logits_NV, original_NV, target_N, subject), expected(formula, logits_NV, target_N))


def test_undial_finds_the_words_of_every_row() -> None:
    """On real rows and a real tokenizer: the marked tokens, decoded, hold the entity and the bare fact."""
    subject, objective = build_subject(CONFIG, small_task().texts()), UNDIAL(focus=10.0)
    draws = draws_of("undial(focus=10)", subject, 8)
    for draw in draws:
        objective.sides(draw["forget"], small_task(), None)  # type: ignore[arg-type]
    batch = batches_of(subject, draws)["forget"]
    step: Any = SimpleNamespace(batches={"forget": batch}, subject=subject)
    weights_N = objective.weights(step)
    assert weights_N is not None and set(weights_N.tolist()) == {1.0, 10.0}
    for draw, row in zip(draws, batch.rows, strict=True):
        example = draw["forget"]
        marks = marked_tokens(row, (example.entity, example.short_answer), subject.encoder.processor)
        answer = row.ids[row.prompt:]
        said = subject.encoder.processor.decode([t for t, m in zip(answer, marks, strict=True) if m])
        rest = subject.encoder.processor.decode([t for t, m in zip(answer, marks, strict=True) if not m])
        assert example.short_answer in said
        assert example.short_answer not in rest and not marks[-1]


def test_undial_refuses_a_focus_that_no_row_has() -> None:
    bare = small_task().model_copy(update={"forget": (Example(id="a", prompt="Who?", answer="No one."),)})
    (problem,) = UNDIAL(focus=10.0).problems(bare)
    assert isinstance(problem, UsageError) and "short_answer" in str(problem)
    assert not UNDIAL().problems(bare) and not UNDIAL(focus=10.0).problems(small_task())
    assert "sequence" in UNDIAL(others=0.0).model_needs and "sequence" not in UNDIAL().model_needs
