"""What a study is: named parts that are measured one by one, and findings from all of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from expunge import api
from expunge.console import Reporter
from expunge.records.settings import TrainSplit
from expunge.records.study import Found, StudySettings
from expunge.records.task import Task

Measured = Mapping[str, Any]
"""Part -> what was measured."""


@dataclass(kw_only=True)
class Design:
    """A study on a task. A subclass says what its parts are, how one is measured, and what follows from all."""

    name: ClassVar[str]
    world: ClassVar[str]
    """The task where none is given."""
    defaults: ClassVar[dict[str, Any]]
    """Settings that are filled in where they are left out."""
    size: ClassVar[str] = "tiny"
    """What it trains from new weights."""
    training: ClassVar[dict[str, Any]] = {"epochs": 30, "batch_size": 24, "lr": 3e-3}
    """Options of every model that it trains."""
    starts_from: ClassVar[str] = ""
    """What a given model must be; empty where the study trains its own and takes none."""
    task: Task
    model: str | None
    """A folder or hub name; None for the built-in one."""
    settings: StudySettings
    work: Path
    """Folder for models of the study's own; it is removed at the end."""
    reporter: Reporter

    @property
    def recipes(self) -> tuple[str, ...]:
        """Every recipe of `--method`, for studies that take several."""
        return tuple(dict.fromkeys(part.strip() for part in (self.settings.method or "").split(";") if part.strip()))

    def unlearning(self, recipe: str) -> dict[str, Any]:
        """Recipe and options of a run that unlearns."""
        spec = self.settings
        return {"method": recipe, "epochs": spec.epochs, "batch_size": spec.batch_size, "seed": spec.seed,
                "keep": "last"}

    def trained(self, task: Task, split: TrainSplit, place: Path, *, size: str = "", seed: int | None = None) -> Path:
        """A model of the task's rows; a finished one is left alone. Seed and size are the study's by default."""
        if not (place / "model").exists():
            api.train(size or self.size, task=task, out=place, split=split, resume=place.exists(),
                      seed=self.settings.seed if seed is None else seed, reporter=Reporter(quiet=True),
                      **self.training)
        return place

    def unlearned(self, original: Path, task: Task, recipe: str, place: Path) -> Path:
        """The original after a recipe; an interrupted run goes on."""
        api.forget(original, task=task, out=place, resume=place.exists(), reporter=Reporter(quiet=True),
                   **self.unlearning(recipe))
        return place

    def planned(self) -> list[str]:
        """Names of the parts. Raises UsageError where the task does not fit."""
        raise NotImplementedError

    def measure(self, part: str) -> dict[str, Any]:
        """Plain data (JSON)."""
        raise NotImplementedError

    def found(self, parts: Measured) -> Found:
        """Sentences, the numbers behind them, and pictures."""
        raise NotImplementedError
