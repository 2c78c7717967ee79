"""Base class of the part of a recipe that runs all the rest on clients."""

from __future__ import annotations

from typing import Any

from expunge.errors import ExpungeError
from expunge.methods.run_context import RunContext
from expunge.models.subject import AnySubject
from expunge.plugin import Plugin
from expunge.records.task import Task


class Federated(Plugin):
    """Runs its stage on clients that keep their rows, and makes one model of theirs."""

    def problems(self, stage: Any, task: Task, config: Any, learns: bool = False) -> list[ExpungeError]:
        """Reasons why clients cannot run this stage; called before weights are loaded.

        Args:
            stage: the recipe stage that it is part of.
            config: of the model.
            learns: whether the rows are trained on, and none is to be forgotten.
        """
        return []

    def notes(self, task: Task) -> tuple[str, ...]:
        """How the rows are divided, for the plan."""
        return ()

    def carry_out(self, stage: Any, subject: AnySubject, task: Task, run: RunContext) -> dict[str, Any]:
        """Train or unlearn `subject` in place, as the settings of the run say; figures for the record."""
        raise NotImplementedError
