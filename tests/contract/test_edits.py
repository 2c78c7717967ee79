"""Tasks and models that an edit cannot work with are refused; what holds for every edit is in the contract."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from expunge.errors import UsageError
from expunge.models.tiny import build_subject
from expunge.records.task import Task
from expunge.testing.checks.edited_models import apply
from expunge.testing.support import CONFIG, fresh, memoriser, small_task, stage_of, weights


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
