"""Edits of facts on other families and targets, and models that they cannot edit; the contract has the rest."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from expunge.errors import PreflightError, UsageError
from expunge.methods._lib.least_squares import constrained_edit, solve_edit
from expunge.methods.edits.alphaedit import AlphaEdit
from expunge.methods.edits.memit import MEMIT
from expunge.methods.edits.rome import ROME
from expunge.methods.plan import preflight
from expunge.methods.recipe import parse
from expunge.records.settings import RunSettings
from expunge.records.task import Example
from expunge.testing import planted
from expunge.testing.families import small_model
from expunge.testing.support import fresh

SHORT: dict[str, Any] = {"contexts": 0, "steps": 4}
TASK = planted.planted_task("Beth")


@pytest.mark.parametrize("family", ["llama", "gpt2", "qwen3"])
def test_families(family: str) -> None:
    """At the name the last edited block gives what was looked for, whatever the family calls its parts."""
    subject = small_model(family, [r.prompt for r in TASK.retain])
    subject.model.double()
    figures = MEMIT(layers=[0, 1], penalty=1e-9, **SHORT).apply(subject, TASK, 0)
    assert figures["missed"] < 1e-2 and figures["rows"] == 1
    ROME(**SHORT).apply(subject, TASK, 0)
    AlphaEdit(threshold=0.9, **SHORT).apply(subject, TASK, 0)
    assert all(bool(p.isfinite().all()) for p in subject.model.parameters())


def test_a_norm_behind_the_mlp() -> None:
    """rome edits what stands before the norm; the others ask for an output that no matrix could give."""
    subject = small_model("gemma3_text", [r.prompt for r in TASK.retain])
    assert ROME(**SHORT).apply(fresh(subject), TASK, 0)["rows"] == 1
    for recipe in ("memit", "alphaedit", "rocr"):
        with pytest.raises(PreflightError, match="normalises"):
            preflight(recipe, parse(recipe), TASK, subject.encoder, subject.model.config, RunSettings())


@pytest.mark.parametrize("recipe", ["rome", "memit", "alphaedit", "rocr"])
def test_experts_are_refused_before_weights_are_loaded(recipe: str) -> None:
    subject = small_model("qwen3_moe", [r.prompt for r in TASK.retain])
    with pytest.raises(PreflightError, match="no MLP output projection"):
        preflight(recipe, parse(recipe), TASK, subject.encoder, subject.model.config, RunSettings())


@pytest.mark.parametrize(("change", "says"), [
    ({"entity": ""}, "no forget prompt names its own"),
    ({"entity": "Someone else"}, "no forget prompt names its own"),
    ({"wrong_answers": ()}, "needs a wrong answer"),
])
def test_rows_that_cannot_be_edited_are_refused(change: dict[str, Any], says: str) -> None:
    row = TASK.forget[0].model_copy(update=change)
    edit = ROME(target="wrong_answer")
    task = TASK.model_copy(update={"forget": (row,)})
    assert any(says in str(problem) for problem in edit.problems(task))
    with pytest.raises(UsageError, match=says):
        edit.apply(fresh(planted.planted()), task, 0)


def test_rows_without_their_entity_are_left_out_and_counted() -> None:
    other = Example(id="text", prompt="", answer="Beth has a bat.", kind="text", entity="Beth")
    task = TASK.model_copy(update={"forget": (*TASK.forget, other)})
    figures = ROME(layer=2, **SHORT).apply(fresh(planted.planted()), task, 0)
    assert (figures["rows"], figures["rows_left_out"]) == (1, 1)


@pytest.mark.parametrize("target", ["null", "uniform"])
def test_targets_without_words(target: str) -> None:
    """The answer ends at once, or its first token is drawn from all alike; from certain to that."""
    subject = fresh(planted.planted())
    ROME(layer=2, target=target, decay=1e-3, steps=30).apply(subject, TASK, 0)
    ids = torch.tensor([subject.encoder.prompt(TASK.forget[0])])
    with torch.no_grad():
        logp_V = subject.model(input_ids=ids).logits[0, -1].log_softmax(-1)
    if target == "null":
        assert int(logp_V.argmax()) == subject.encoder.eos_id
    else:
        assert float(-(logp_V.exp() * logp_V).sum()) > 0.8 * torch.tensor(float(len(logp_V))).log()


def test_memit_with_one_key_and_a_small_penalty_is_rome() -> None:
    source = torch.Generator().manual_seed(0)
    key_K1, residual_D1, draws = (torch.randn(*shape, generator=source, dtype=torch.float64)
                                  for shape in ((12, 1), (5, 1), (12, 40)))
    covariance_KK = draws @ draws.T / 40
    rome = constrained_edit(key_K1, residual_D1, covariance_KK, ridge=0.0)
    memit = solve_edit(key_K1, residual_D1, penalty=1e-7, covariance_KK=covariance_KK)
    torch.testing.assert_close(rome, memit, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(rome @ key_K1, residual_D1, rtol=1e-9, atol=1e-9)
