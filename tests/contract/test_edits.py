"""What must hold for any edit: its figures, what it leaves behind, and that it can be repeated."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from expunge import registry
from expunge.data.world import authors_task
from expunge.errors import UsageError
from expunge.methods.base import Edit
from expunge.models.language import CausalLM
from expunge.models.load import load_subject
from expunge.models.tiny import build_subject
from expunge.records.task import Task
from expunge.testing.support import CONFIG, batch_of, fresh, hooks, memoriser, small_task, stage_of, weights

ENTRIES = registry.of_kind("edit")
each_edit = pytest.mark.parametrize("name", [e.name for e in ENTRIES])


def apply(name: str, subject: CausalLM, seed: int = 0, task: Task | None = None) -> dict[str, Any]:
    edit = stage_of(name).edit
    assert isinstance(edit, Edit)
    return edit.apply(subject, task or small_task(), seed)


@each_edit
def test_figures_are_json_and_weights_change(name: str) -> None:
    subject = fresh()
    figures = apply(name, subject)
    assert figures["edit"] == name
    assert json.loads(json.dumps(figures, allow_nan=False)) == figures
    before = weights(memoriser())
    assert any(not torch.equal(p, before[n]) for n, p in weights(subject).items())
    assert all(bool(p.isfinite().all()) for p in subject.model.parameters())


@each_edit
def test_an_edit_leaves_no_trace(name: str) -> None:
    """No hooks, no gradients, the mode and the asking for gradients as they were; the task is read only."""
    subject, task = fresh(), small_task()
    asked = {n: p.requires_grad for n, p in subject.model.named_parameters()}
    shared = subject.model.get_input_embeddings().weight.data_ptr()
    fingerprint = task.fingerprints()
    apply(name, subject)
    assert hooks(subject) == [] and not subject.model.training
    assert all(p.grad is None and p.requires_grad == asked[n] for n, p in subject.model.named_parameters())
    assert subject.model.get_output_embeddings().weight.data_ptr() == shared
    assert task.fingerprints() == fingerprint


@each_edit
def test_same_seed_same_weights(name: str) -> None:
    """Whatever the global random state was before."""
    ends = []
    for noise in (1, 2):
        torch.manual_seed(noise)
        subject = fresh()
        apply(name, subject, seed=3)
        ends.append(weights(subject))
    assert all(torch.equal(ends[0][n], ends[1][n]) for n in ends[0])


@each_edit
def test_the_edited_model_loads(name: str, tmp_path: Path) -> None:
    subject = fresh()
    apply(name, subject)
    subject.save(tmp_path)
    again, batch = load_subject(tmp_path), batch_of(subject, small_task().forget[:3])
    with torch.no_grad():
        assert torch.equal(again.answers(batch).logits_NV, subject.answers(batch).logits_NV)


@each_edit
def test_other_families(name: str) -> None:
    """GPT-2 keeps its weights the other way round and ties its embeddings; running text has no question."""
    task = authors_task(forget=1, retain=2, holdout=1, neighbours=1)
    config = {"model_type": "gpt2", "vocab_size": 768, "n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 256}
    subject = build_subject(config, task.texts())
    before = weights(subject)
    figures = apply(name, subject, task=task)
    assert json.dumps(figures, allow_nan=False)
    changed = [not torch.equal(p, before[n]) for n, p in weights(subject).items()]
    # Nothing is specific to the forget rows of a model that knows nothing.
    assert any(changed) or name == "ssd"


@each_edit
def test_a_small_precision_is_worked_on_in_float32(name: str) -> None:
    subject = fresh()
    subject.model.bfloat16()
    apply(name, subject)
    assert {p.dtype for p in subject.model.parameters()} == {torch.float32}


def bare(task: Task) -> Task:
    """Nothing but nameless forget rows."""
    return Task(name="bare", forget=tuple(r.model_copy(update={"entity": ""}) for r in task.forget))


@pytest.mark.parametrize(("recipe", "says"), [
    ("ssd", "has no others"),
    ("rocr", "name no entity"),
    ("first_epoch", "has none"),
    ("rocr(entities=['Rosalba Oxenham'])", "generic text"),
])
def test_a_task_that_cannot_work_is_refused(recipe: str, says: str) -> None:
    """Before weights are loaded, and when somebody calls the edit itself; nothing is changed."""
    edit, subject = stage_of(recipe).edit, fresh()
    assert edit is not None
    task = bare(small_task())
    assert any(says in str(problem) for problem in edit.problems(task))
    assert not edit.problems(small_task())
    with pytest.raises(UsageError, match=says):
        edit.apply(subject, task, 0)
    before = weights(memoriser())
    assert all(torch.equal(p, before[n]) for n, p in weights(subject).items())


@pytest.mark.parametrize(("recipe", "says"), [
    ("rocr(layers=[7])", "no such block"),
    ("rocr(threshold=1e-9)", "below the threshold"),
    ("first_epoch(layers=7)", "no such block"),
])
def test_a_model_that_cannot_work_is_refused(recipe: str, says: str) -> None:
    subject, before = fresh(), weights(memoriser())
    with pytest.raises(UsageError, match=says) as refused:
        apply(recipe, subject)
    assert refused.value.why or refused.value.fix
    assert all(torch.equal(p, before[n]) for n, p in weights(subject).items())


def test_first_epoch_checks_its_checkpoints(tmp_path: Path) -> None:
    edit = stage_of(f"first_epoch(initial={str(tmp_path / 'nowhere')!r})").edit
    assert edit is not None
    assert any("no model" in str(problem) for problem in edit.problems(small_task()))
    other = build_subject(CONFIG | {"intermediate_size": 96}, small_task().texts())
    other.save(tmp_path / "other")
    with pytest.raises(UsageError, match="another size"):
        apply(f"first_epoch(initial={str(tmp_path / 'other')!r})", fresh())
    with pytest.raises(UsageError, match="not both"):
        stage_of("first_epoch(step=0.1, target=2.0)")
