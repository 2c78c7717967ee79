"""What a study measured, part by part, and what it found."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field

from expunge.records.base import Record
from expunge.records.settings import LoopSettings

STUDY_SCHEMA = "expunge.study/1"


class StudySettings(LoopSettings):
    """Options of `expunge study`; each study has defaults of its own for those that are left out."""

    count: int | None = Field(None, ge=1, le=1000, description=(
        "How many facts are injected (outlandish), seeds of each order (path_dependence), skills unlearned (novice), "
        "models (traces), or random sets (worst_case)."))
    steps: int | None = Field(None, ge=1, description="Steps: of an injection (outlandish), of unlearning "
                                                      "(path_dependence), of each phase of relearning (novice), of the "
                                                      "inner level (worst_case).")
    lr: float | None = Field(None, gt=0, exclude=True, description="Learning rate of these steps.")
    method: str | None = Field(None, description="Recipe that unlearns (all but outlandish); traces and worst_case "
                                                 "take several, separated by ';'.")


class StudyChart(Record):
    """One picture: curves, or points with `dots`."""

    title: str
    x: str
    y: str
    series: dict[str, list[tuple[float, float]]]
    dots: bool = False
    log_x: bool = False
    log_y: bool = False
    caption: str = ""


class Found(Record):
    """What follows from all parts."""

    findings: tuple[str, ...]
    """Sentences, the most important first."""
    figures: dict[str, Any]
    """The numbers behind them."""
    charts: tuple[StudyChart, ...] = ()


class Study(Record):
    """DIR/study.json."""

    FILE: ClassVar[str] = "study.json"
    schema_: str = Field(STUDY_SCHEMA, alias="schema")
    model_config = Record.model_config | {"populate_by_name": True}
    name: str
    """Which study, such as traces."""
    model: str
    """The model it starts from; empty for one that the study trains itself."""
    task: str
    task_fingerprint: str
    settings: dict[str, Any]
    """With every default filled in."""
    environment: dict[str, Any]
    planned: tuple[str, ...]
    """Names of all parts, in order."""
    parts: dict[str, Any] = Field(default_factory=dict)
    """Part -> what was measured, for those that are finished."""
    found: Found | None = None
    """None until all parts are finished."""
    seconds: float = 0.0
    """Spent so far."""
