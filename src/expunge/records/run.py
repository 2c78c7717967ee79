"""That something was done: recipe, inputs by fingerprint, environment, timing, status; and where."""

from __future__ import annotations

import platform
import subprocess
import sys
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from expunge.records.base import Record
from expunge.records.overview import Overview
from expunge.records.prompt import PromptFormat
from expunge.records.settings import RunSettings, TrainSettings

RUN_SCHEMA = "expunge.run/1"


def now() -> str:
    """The time, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


class RunRecord(Record):
    """RUN/record.json."""

    FILE: ClassVar[str] = "record.json"
    schema_: str = Field(RUN_SCHEMA, alias="schema")
    model_config = Record.model_config | {"populate_by_name": True}
    kind: Literal["train", "forget"]
    recipe: str
    """As typed, presets unexpanded."""
    recipe_full: dict[str, Any]
    """Stages with every term and every option, defaults filled in."""
    settings: TrainSettings | RunSettings
    """Options of the command, as they were carried out."""
    model: str
    model_fingerprint: str
    task: str
    task_fingerprints: dict[str, str]
    seed: int
    prompt: PromptFormat | None = None
    """How rows became what the model reads, with the first of them; None in records of earlier versions."""
    environment: dict[str, Any]
    status: Literal["running", "interrupted", "finished", "failed"] = "running"
    reason: str = ""
    """Why the loop ended, in words."""
    created: str = Field(default_factory=now)
    timing: dict[str, float] = Field(default_factory=dict)
    """steps, train_s, tokens_per_s; positions that gradients were taken at, where every stage counts them (attacks on
    activations are left out); of_retraining, their share of those of training without the forget rows, where the
    training of the original is known."""
    peak_memory_bytes: int = 0
    reference: dict[str, str] = Field(default_factory=dict)
    """How the original's outputs were served and the checksum that shows it never moved."""
    parameters: dict[str, int] = Field(default_factory=dict)
    """total, and trainable: how many the scope let move; it holds the others to the bit."""
    alarms: tuple[str, ...] = ()
    best: dict[str, Any] = Field(default_factory=dict)
    """The kept checkpoint: step, forget, utility and the rule that chose it; an edit's figures."""
    stages: tuple[dict[str, Any], ...] = ()
    """Of a recipe with several stages: timing, reference, parameters, alarms and best of each, in order."""

    def overview(self) -> Overview:
        """What was done and how it ended."""
        kept, start = self.best.get("kept", {}), self.best.get("start", {})
        readings = [(f"{name} probability" if name == "forget" else name, f"{start[name]:.3f} to {kept[name]:.3f}")
                    for name in ("forget", "utility") if name in kept and name in start]
        return Overview(f"{self.kind.capitalize()} by {self.recipe}", [
            ("task", self.task), ("model", self.model), ("seed", self.seed),
            ("status", self.status + (f": {self.reason}" if self.reason else "")),
            ("steps", int(self.timing.get("steps", 0))), ("kept step", kept.get("step")), *readings,
            ("seconds", self.timing.get("train_s")),
            ("share of retraining", self.timing.get("of_retraining")), *(("alarm", alarm) for alarm in self.alarms)])

    @property
    def unfinished(self) -> str:
        """How a run that did not end stands, in a few words; empty for one that did."""
        if self.status == "finished":
            return ""
        said = "killed, or still at work" if self.status == "running" else self.reason or self.status
        return said.rstrip(".")

    @model_validator(mode="before")
    @classmethod
    def _settings_of_the_kind(cls, data: Any) -> Any:
        """Stored settings become the record of their command; the seed stands beside them."""
        if isinstance(data, dict) and data.get("status") == "stopped":  # how earlier versions said: by a stopping rule
            data = data | {"status": "finished"}
        if not isinstance(data, dict) or not isinstance(data.get("settings"), dict):
            return data
        kind = TrainSettings if data.get("kind") == "train" else RunSettings
        return data | {"settings": kind(**(data["settings"] | {"seed": data.get("seed", 0)}))}


class RunFolder:
    """The layout of a run: names in one place."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.record = root / "record.json"
        self.rows = root / "task.json"
        """The rows it was made with, so that an audit needs nothing; `expunge purge` removes it."""
        self.purged = root / "purged.json"
        """What was removed from the folder, and when."""
        self.model = root / "model"
        self.steps = root / "steps.jsonl"
        self.checkpoint = root / "checkpoint"
        self.audit = root / "audit.json"
        self.observations = root / "observations"
        self.report = root / "report.html"


@cache
def environment() -> dict[str, Any]:
    """Versions, machine and commit; nothing that names a person or a path."""
    packages = ("torch", "transformers", "peft", "accelerate", "tokenizers", "numpy", "scipy")
    versions = {}
    for package in ("expunge", *packages):
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return {
        "python": platform.python_version(),
        "platform": f"{sys.platform}-{platform.machine()}",
        "packages": versions,
        "commit": _commit(),
    }


def _commit() -> str | None:
    """The commit expunge itself runs from, with a mark when the tree differs; None when installed."""
    here = Path(__file__).resolve().parent
    try:
        top = subprocess.run(
            ["git", "-C", str(here), "describe", "--always", "--dirty", "--abbrev=12"],
            capture_output=True, text=True, timeout=5, check=True,
        )
        return top.stdout.strip() or None
    except (OSError, subprocess.SubprocessError):
        return None
