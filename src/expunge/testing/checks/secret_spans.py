"""Promises of CodeEraser: secret tokens go, and the text around them stays.

Legend: N supervised tokens (flat).
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from expunge.data.text_encoder import TokenBatch
from expunge.errors import UsageError
from expunge.methods.base import Objective
from expunge.methods.objectives.code_eraser import CodeEraser, secrets_of
from expunge.models.language import CausalLM
from expunge.records.task import Task

from ..support import batch_of, cosine, flat, gradient, made, memoriser, moved, small_task, stage_of, trained
from .base import check, term


def marked(plugin: type[Objective], batch: TokenBatch) -> tuple[CodeEraser, torch.Tensor]:
    """The plug-in, prepared on the small task, and which tokens of a batch are secret."""
    objective = plugin()
    assert isinstance(objective, CodeEraser)
    objective.made = made(term(plugin))
    return objective, objective.marks(batch)


@check(trains=True)
def erases_secrets_alone(plugin: type[Objective], steps: int, lr: float) -> None:
    """Their loss more than triples; that of the other tokens rises by less than a tenth of it, and under ga by more."""
    batch = batch_of(memoriser(), small_task().forget)
    _, secret_N = marked(plugin, batch)

    def losses(subject: CausalLM) -> tuple[float, float]:
        with torch.no_grad():
            logp_N = subject.answers(batch).logp_N
        return -float(logp_N[secret_N].mean()), -float(logp_N[~secret_N].mean())

    before = losses(memoriser())
    shares = []
    for recipe in (term(plugin), "ga"):
        after = losses(trained(recipe, steps=steps, lr=lr).subject)
        assert after[0] > 3 * before[0] and after[0] > 1, (recipe, before, after)
        shares.append((after[1] - before[1]) / (after[0] - before[0]))
    assert shares[0] < 0.1 < shares[1], shares


@check
def is_ascent_on_all(plugin: type[Objective]) -> None:
    """Value and gradient of ga, bit for bit but for rounding."""
    stage = stage_of(term(plugin, {"context": 0.0, "divergence": 0.0}))
    batch = batch_of(moved(), small_task().forget[:6])
    assert stage.objective is not None and not stage.retain
    stage.objective.made = {row.key: [True] * row.supervised for row in batch.rows}
    mine, theirs = (gradient(s, moved(), batches=[{"forget": batch}]) for s in (stage, stage_of("ga")))
    assert mine.values["code_eraser"] == pytest.approx(theirs.values["ga"], rel=1e-6)
    assert cosine(mine.total(), theirs.total()) > 1 - 1e-9
    assert float(flat(mine.total()).norm() / flat(theirs.total()).norm()) == pytest.approx(1, rel=1e-5)


@check
def counts_token_roles(plugin: type[Objective]) -> None:
    """Marked tokens say the secret and no more; each mean has its own denominator; `secrets` goes before the fact."""
    rows = small_task().forget[:6]
    batch = batch_of(moved(), rows)
    objective, secret_N = marked(plugin, batch)
    decode = moved().encoder.processor.decode
    for example, row, marks in zip(rows, batch.rows, secret_N.split([r.supervised for r in batch.rows]), strict=True):
        said = decode([i for i, m in zip(row.ids[row.prompt:], marks.tolist(), strict=True) if m])
        left = decode([i for i, m in zip(row.ids[row.prompt:], marks.tolist(), strict=True) if not m])
        assert example.short_answer in said and left and example.short_answer not in left, (example, said)
    assert objective.secret(batch) + objective.around(batch) == batch.count("tokens")
    found = gradient(term(plugin, {"divergence": 0.0}), moved(), batches=[{"forget": batch}])
    with torch.no_grad():
        logp_N = moved().answers(batch).logp_N
    assert found.values["code_eraser"] == pytest.approx(float(logp_N[secret_N].mean()), rel=1e-5)
    assert found.values["code_eraser_context"] == pytest.approx(-0.5 * float(logp_N[~secret_N].mean()), rel=1e-5)
    two = rows[0].model_copy(update={"secrets": ("a", "b")})
    assert secrets_of(two) == ("a", "b") and secrets_of(rows[0]) == (rows[0].short_answer,)


def replace_all(task: Task, **fields: Any) -> Task:
    """The task with these fields in every forget row."""
    return task.model_copy(update={"forget": tuple(row.model_copy(update=fields) for row in task.forget)})


@check
def refuses_rows_without_secrets(plugin: type[Objective]) -> None:
    """One problem that counts them and names one; none where each names a secret in either field."""
    task = small_task()
    assert not plugin().problems(task)
    bare = replace_all(task, short_answer="")
    (problem,) = plugin().problems(bare)
    assert isinstance(problem, UsageError) and f"{len(task.forget)} of {len(task.forget)}" in problem.what
    assert not plugin().problems(replace_all(bare, secrets=("a",)))
