"""Objectives on hidden states run on five families, or preflight says why not."""

from __future__ import annotations

import math
from functools import cache

import pytest
import torch

from expunge.errors import PreflightError, UsageError
from expunge.methods.plan import preflight
from expunge.methods.recipe import parse
from expunge.methods.run_context import RunContext
from expunge.methods.stage import StageMethod
from expunge.models.language import CausalLM
from expunge.models.reference import build_reference
from expunge.records.settings import RunSettings
from expunge.testing.families import small_model
from expunge.testing.support import batches_of, small_task, token_rows
from expunge.training.step import Step, reduce_terms, totals, weighted_sum

FAMILIES = ("llama", "gpt2", "qwen3", "gemma3_text", "qwen3_moe")
RECIPES = {
    "srmu": "", "kuda": "has no MLP output projection", "cir(every=1, inputs=2, gradients=2)": "hold no matrix",
    "probe_geometry": "", "rmu": "", "npo + klue": "has no MLP output projection", "npo + prune_first": "",
}
"""Recipe -> words of the refusal on a model with experts; none where it runs."""


@cache
def model(family: str) -> CausalLM:
    return small_model(family, small_task().texts())


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_step_on_every_family(family: str, recipe: str) -> None:
    subject, task = model(family).clone(), small_task()
    few = task.model_copy(update={"forget": task.forget[:3], "retain": task.retain[:3]})
    (stage,) = parse(recipe, len(subject.blocks))
    refused = RECIPES[recipe] if "moe" in family else ""
    if refused:
        with pytest.raises(UsageError, match=refused):
            for plugin in stage.plugins:
                plugin.check_model(subject)
        return
    for part in stage.builders.values():
        part.made = part.prepare(subject, few, RunContext(settings=RunSettings(steps=2)))
    scope = stage.scope.apply(subject, token_rows(subject, few.forget, few.retain))
    method = StageMethod(stage, subject, few, few.forget, few.retain, 0)
    batches = batches_of(subject, method.order(0)[:2])
    rows = [row for batch in batches.values() for row in batch.rows]
    with torch.no_grad():  # a reference that differs, as after some steps
        reference = build_reference(subject, stage.reference, rows)
        for parameter in scope.parameters.values():
            parameter.add_(0.05 * torch.randn_like(parameter))
    method.begin(0, 2)
    terms = method.terms(Step(subject, batches, reference))
    loss = weighted_sum(terms, reduce_terms(terms, totals([batches])))
    assert loss is not None and math.isfinite(float(loss.detach()))
    grads = torch.autograd.grad(loss, list(scope.parameters.values()), allow_unused=True)
    assert sum(float(g.norm()) for g in grads if g is not None) > 0
    scope.enforce()


def test_preflight_refuses_experts() -> None:
    subject = model("qwen3_moe")
    recipe = next(r for r, why in RECIPES.items() if why)
    with pytest.raises(PreflightError, match=RECIPES[recipe]):
        preflight(recipe, parse(recipe, 2), small_task(), subject.encoder, subject.model.config, RunSettings())




@pytest.mark.parametrize("objective", ("dpo", "idk", "probe_geometry"))
def test_gradients_are_rebuilt_from_forget_rows_alone(objective: str) -> None:
    with pytest.raises(PreflightError, match="runs the model on other rows"):
        plan(f"{objective} + retain_nll + project_shared")
    plan("npo + retain_nll + project_shared")
    plan("dpo + retain_nll + project_shared(inputs=0, gradients=0, normalise=False)")


def test_gradients_are_rebuilt_inside_other_perturbations() -> None:
    with pytest.raises(PreflightError, match="project_shared has to be named after sam"):
        plan("npo + retain_nll + project_shared + sam")
    plan("npo + retain_nll + sam + project_shared")
    plan("npo + retain_nll + project_shared + sam(rho=0)")
    plan("cir + sam")


def test_gradients_are_rebuilt_in_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("expunge.processes.count", lambda: 2)
    with pytest.raises(PreflightError, match="project_shared works in one process, and 2 were started"):
        plan("npo + retain_nll + project_shared")
    plan("npo + retain_nll")


@pytest.mark.parametrize("name", ("kuda", "cir", "probe_geometry", "null_space"))
def test_no_block_at_all_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="layers"):
        parse(f"npo + {name}(layers=[])" if name == "null_space" else f"{name}(layers=[])", 2)


def plan(recipe: str) -> None:
    subject = model("llama")
    preflight(recipe, parse(recipe, 2), small_task(), subject.encoder, subject.model.config, RunSettings())
