"""Methods that serve a stream of deletion requests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from expunge.methods.base import Edit
from expunge.methods.run_context import RunContext
from expunge.models.subject import AnySubject
from expunge.records.settings import RunSettings
from expunge.records.task import Task
from expunge.training.turns import in_turns


class Sequential(Edit):
    """Serves one request after the other; a run that is interrupted goes on after the last finished one."""

    def serve(self, subject: AnySubject, task: Task, run: RunContext) -> dict[str, Any]:
        """Edits `subject` in place and returns figures, as `apply` does; keeps its state in `run.folder`."""
        raise NotImplementedError

    def apply(self, subject: AnySubject, task: Task, seed: int) -> dict[str, Any]:
        return self.serve(subject, task, RunContext(settings=RunSettings(seed=seed)))


def one_by_one(subject: AnySubject, count: int, state: dict[str, Any], folder: Path | None,
               serve: Callable[[int], None]) -> None:
    """Call `serve` with the number of each request, from 0, and keep weights and state after each.

    What `serve` freezes is as before at the end.

    Args:
        state: what `serve` changes besides the weights: plain data, replaced by what is stored in `folder`.
        folder: None keeps nothing.

    Raises:
        InterruptedRun: Ctrl-C within a request.
    """
    parameters = dict(subject.model.named_parameters())
    asked = {p: p.requires_grad for p in parameters.values()}
    in_turns(parameters, count, state, folder, serve, "request")
    for parameter, before in asked.items():
        parameter.requires_grad_(before)
