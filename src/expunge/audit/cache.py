"""Observations and test-bed models kept between runs, filed under what they depend on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from expunge.models.subject import Subject
from expunge.probes.base import Probe
from expunge.records.base import cache_root, fingerprint, read_jsonl, write_jsonl
from expunge.records.observation import Row
from expunge.records.task import Example, Task

VERSION = 6
"""Raise when a probe's meaning changes, so that old rows are not mistaken for new ones."""


class ObservationCache:
    """Rows of one probe on one model and one set of examples, by content."""

    def __init__(self, root: Path | None = None) -> None:
        self._root = (root or cache_root()) / "observations"
        self._known: dict[tuple[str, int], tuple[Example, str]] = {}  # by encoder and object, which is kept alive

    def key(self, subject: Subject, probe: Probe, examples: Sequence[Example], task: Task) -> str:
        """Everything the rows depend on: the model, the rows as it reads them, probe options and budget."""
        return fingerprint([VERSION, model_key(subject), probe.text(), task.generation_tokens,
                            [self._row(subject, e) for e in examples],
                            *([task.group_tokens] if task.group_tokens else [])])

    def _row(self, subject: Subject, example: Example) -> str:
        """An example as it stands in the task and as the model reads it; every probe and attack asks for the same."""
        place = (subject.encoder.fingerprint, id(example))
        if place not in self._known:
            self._known[place] = example, fingerprint([example.to_json(), subject.as_read(example)])
        return self._known[place][1]

    def get(self, key: str) -> list[Row] | None:
        path = self._root / f"{key}.jsonl"
        return list(read_jsonl(path)) if path.exists() else None

    def put(self, key: str, rows: Sequence[Row]) -> None:
        """A cache that cannot be written is only slower, never wrong."""
        try:
            write_jsonl(self._root / f"{key}.jsonl", rows)
        except OSError:
            return


def model_key(subject: Subject) -> str:
    """Everything that decides what a model answers: weights, config, adapters, encoder, and how it decodes.

    Of an endpoint: its address, the name of its model, and the day.
    """
    if not subject.has_weights:
        return fingerprint(["endpoint", subject.fingerprint, subject.encoder.fingerprint])
    adapters = {name: _sorted(config.to_dict()) for name, config in getattr(subject.model, "peft_config", {}).items()}
    return fingerprint([subject.fingerprint, subject.model.config.to_json_string(), adapters, str(subject.device),
                        subject.encoder.fingerprint, _sorted(subject.decoding)])


def _sorted(settings: Any) -> Any:
    """Settings as JSON; a set has another order in every process."""
    if isinstance(settings, dict):
        return {str(name): _sorted(value) for name, value in settings.items() if name != "base_model_name_or_path"}
    if isinstance(settings, set | frozenset):
        return sorted(map(str, settings))
    if isinstance(settings, list | tuple):
        return [_sorted(value) for value in settings]
    return settings if settings is None or isinstance(settings, str | int | float | bool) else str(settings)
