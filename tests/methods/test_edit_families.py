"""Edits, and metrics of internals, on five families: they run, or say in preflight why not."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import expunge
from expunge.console import Reporter
from expunge.errors import UsageError
from expunge.methods.recipe import parse
from expunge.models.language import CausalLM
from expunge.testing.families import small_model
from expunge.testing.support import small_task

FAMILIES = ("llama", "gpt2", "qwen3", "gemma3_text", "qwen3_moe")
TRAINED = "epochs=1, lr=1e-2"
EDITS = ("stamp", "lunar", "concept_vectors", "pisces", "rome(steps=2)", "rome(steps=2) + attention_drift",
         "memit(steps=2)", "alphaedit(steps=2, threshold=0.9)", f"override_gap({TRAINED})", f"tall_masks({TRAINED})",
         "consensus(epochs=3, lr=1e-2)")
ANYWHERE = ("override_gap", "tall_masks", "consensus")
"""They change whole models, so that experts are no obstacle."""
METRICS = ("transfer_probe", "forget.hidden_knowledge", "conflict", "uds")


def refusal(edit: str, family: str) -> str:
    """Words of the refusal; none where it runs."""
    if family == "qwen3_moe" and not edit.startswith(ANYWHERE):
        return "no MLP output projection"
    return "norm" if family == "gemma3_text" and edit.startswith(("memit", "alphaedit")) else ""


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_edits(family: str) -> None:
    task = small_task()
    few = task.model_copy(update={"forget": task.forget[:2], "retain": task.retain[:8], "background": ()})
    before = small_model(family, task.texts())
    for edit in EDITS:
        subject = before.clone()
        (stage,) = parse(edit, len(subject.blocks))
        assert stage.edit is not None
        if why := refusal(edit, family):
            with pytest.raises(UsageError, match=why):
                stage.edit.check_model(subject)
            continue
        stage.edit.check_model(subject)
        stage.edit.apply(subject, few, 0)
        after = dict(subject.model.named_parameters())
        assert all(bool(weight.isfinite().all()) for weight in after.values()), edit
        assert any(not torch.equal(weight, after[name]) for name, weight in before.model.named_parameters()), edit


def moved(subject: CausalLM, seed: int, place: Path) -> Path:
    """A copy with a little noise on every weight."""
    generator, other = torch.Generator().manual_seed(seed), subject.clone()
    with torch.no_grad():
        for weight in other.model.parameters():
            weight += 0.02 * torch.randn(weight.shape, generator=generator)
    other.save(place)
    return place


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_metrics_of_internals(family: str, tmp_path: Path) -> None:
    task = small_task()
    few = task.model_copy(update={side: getattr(task, side)[::3] for side in ("forget", "retain", "holdout")})
    original = small_model(family, task.texts())
    original.save(tmp_path / "original")
    found = expunge.audit(moved(original, 0, tmp_path / "subject"), original=tmp_path / "original", task=few,
                          retrained=[moved(original, 1, tmp_path / "retrained")], suite=METRICS, resamples=0,
                          out=tmp_path / "audit", reporter=Reporter(quiet=True))
    assert {score.name for score in found.scores} == set(METRICS)
    for score in found.scores:  # a model without knowledge has no block that holds a fact
        assert score.value is not None or score.name == "uds", (score.name, score.unavailable)
        assert score.unavailable is None or "fact" in score.unavailable or "fit" in score.unavailable
