"""Tasks and models that an edit cannot work with are refused; what holds for every edit is in the contract."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import expunge
from expunge.errors import UsageError
from expunge.models.tiny import build_subject
from expunge.records.task import Task
from expunge.sequential.fit import FIT
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


@pytest.mark.slow
def test_a_stream_of_requests_is_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed in the second request; the run that goes on serves only the others, and its record has all of them."""
    memoriser().save(tmp_path / "model")
    options: dict[str, Any] = {"method": "fit(lr=1e-3, epochs=1, by='row')", "batch_size": 4,
                               "task": small_task().model_copy(update={"forget": small_task().forget[:3]})}
    whole = expunge.forget(tmp_path / "model", out=tmp_path / "whole", **options)
    served, real = list[str](), FIT._one

    def one(self: FIT, subject: Any, original: Any, task: Any, request: Any, *rest: Any) -> None:
        served.append(request[0].id)
        if len(served) == 2:
            raise KeyboardInterrupt
        real(self, subject, original, task, request, *rest)

    monkeypatch.setattr(FIT, "_one", one)
    with pytest.raises(KeyboardInterrupt):
        expunge.forget(tmp_path / "model", out=tmp_path / "cut", **options)
    done = expunge.forget(tmp_path / "model", out=tmp_path / "cut", resume=True, **options)
    ids = [row.id for row in options["task"].forget]
    assert served == [ids[0], ids[1], ids[1], ids[2]]
    assert done.best == whole.best and done.timing["positions"] == whole.timing["positions"] > 0
    first, second = (load_file(tmp_path / out / "model" / "model.safetensors") for out in ("whole", "cut"))
    assert all(torch.equal(value, second[name]) for name, value in first.items())


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
