"""What a plug-in that trains or builds receives: the run's settings, a folder, and a way to show progress."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from expunge.progress import Announce, silent
from expunge.records.settings import LoopSettings, RunSettings


@dataclass(frozen=True, kw_only=True)
class RunContext:
    """The run that a plug-in is part of.

    Args:
        folder: for what it wants to find again when the run is resumed; None keeps nothing.
        beside: for what stays beside the model once the run is finished; None keeps nothing.
    """

    settings: LoopSettings = field(default_factory=RunSettings)
    folder: Path | None = None
    beside: Path | None = None
    announce: Announce = silent

    @property
    def seed(self) -> int:
        return self.settings.seed
