"""Observations and test-bed models kept between runs, filed under what they depend on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from expunge.models.subject import Subject
from expunge.probes.base import Probe
from expunge.records.base import cache_root, fingerprint, read_jsonl, write_jsonl
from expunge.records.observation import Row
from expunge.records.task import Example, Task

VERSION = 4
"""Raise when a probe's meaning changes, so that old rows are not mistaken for new ones."""


class ObservationCache:
    """Rows of one probe on one model and one set of examples, by content."""

    def __init__(self, root: Path | None = None) -> None:
        self._root = (root or cache_root()) / "observations"

    def key(self, subject: Subject, probe: Probe, examples: Sequence[Example], task: Task) -> str:
        """Everything the rows depend on: weights, encoder, probe options, examples, budget."""
        model = subject.model
        adapters = {name: str(config) for name, config in getattr(model, "peft_config", {}).items()}
        return fingerprint([
            VERSION, subject.fingerprint, model.config.to_json_string(), adapters, str(subject.device),
            subject.encoder.fingerprint, probe.text(), task.generation_tokens,
            [e.to_json() for e in examples],
        ])

    def get(self, key: str) -> list[Row] | None:
        path = self._root / f"{key}.jsonl"
        return list(read_jsonl(path)) if path.exists() else None

    def put(self, key: str, rows: Sequence[Row]) -> None:
        """A cache that cannot be written is only slower, never wrong."""
        try:
            write_jsonl(self._root / f"{key}.jsonl", rows)
        except OSError:
            return
