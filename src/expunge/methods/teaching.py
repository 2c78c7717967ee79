"""Stages that teach: which model teaches, what a guarded model is taught into, and what cannot be taught."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from expunge import registry
from expunge.errors import ExpungeError, UsageError
from expunge.methods.base import Guard
from expunge.methods.recipe import Stage
from expunge.models.load import float32_master, load_subject, made_by
from expunge.models.subject import Subject

START = -1
"""In place of the number of a stage: the model that the run starts from."""


def teacher_of(stages: Sequence[Stage], number: int) -> int | None:
    """The stage whose result teaches stage `number`, or START; None where it has no teacher of its own."""
    objective = stages[number].objective
    if objective is None or objective.teacher is None:
        return None
    return START if objective.teacher == "original" else _before_damage(stages, number)


def _before_damage(stages: Sequence[Stage], number: int) -> int:
    """The last stage before `number` that does not damage the model, or START."""
    place = number - 1
    while place > START and _damages(stages[place]):
        place -= 1
    return place


def _damages(stage: Stage) -> bool:
    return stage.edit is not None and stage.edit.damages


def takes_guard_off(stages: Sequence[Stage], number: int) -> bool:
    """Whether a guarded model that reaches stage `number` is what a later stage, or this one, teaches to plain
    weights: the stage then works on the model inside."""
    ahead = number
    while ahead < len(stages) and _damages(stages[ahead]):
        ahead += 1
    if ahead == len(stages):
        return False
    objective = stages[ahead].objective
    return objective is not None and objective.teacher in ("previous", "guard")


def is_guard(name: str) -> bool:
    """Whether the plug-in that made a model is a guard; False for the empty name of a plain model."""
    return bool(name) and registry.find(name).kind == "guard"


def without_guard(subject: Subject) -> Subject:
    """The plain model inside a guarded one; any other subject as it is."""
    name = made_by(subject.model.config)
    if not is_guard(name):
        return subject
    guard = registry.load(name, "guard")
    assert issubclass(guard, Guard)
    return subject.around(guard.inside(subject.model))


def load_teacher(path: str | Path, student: Subject) -> Subject:
    """The teacher in float32, with the student's encoder and on its device."""
    teacher = load_subject(path, encoder=student.encoder, device=student.device)
    if hasattr(teacher.model, "peft_config"):
        teacher.model = teacher.model.merge_and_unload()
        teacher.renamed()
    float32_master(teacher)
    return teacher


def teaching_problems(stages: Sequence[Stage], number: int, guarded: Sequence[str]) -> list[ExpungeError]:
    """What is wrong with stage `number` as a stage that teaches.

    Args:
        guarded: what has made the model before each stage and, last, after all of them; empty for a plain model.
    """
    stage, place = stages[number], teacher_of(stages, number)
    if place is None or stage.objective is None:
        return []
    name, asked = stage.objective.card.name, stage.objective.teacher
    problems: list[ExpungeError] = []
    by_guard = is_guard(guarded[place + 1])
    if asked == "guard" and not by_guard:
        problems.append(UsageError(f"{name}(teacher='guard') has no guarded model before it.",
                                   fix="Put a guard there, such as uld >> distil(teacher='guard')."))
    elif not by_guard and place == number - 1:
        problems.append(UsageError(f"{name} would teach a model what it says already.",
                                   "Teacher and student are the same model: nothing stands between them.",
                                   "Damage the weights first, such as shrink_perturb >> distil, or put it behind a "
                                   "guard."))
    if stage.perturb:
        problems.append(UsageError(f"{' and '.join(p.card.name for p in stage.perturb)} would have nothing to perturb.",
                                   f"It changes the gradient that forgets, and {name} forgets nothing.",
                                   "Put it into the stage that forgets."))
    return problems
