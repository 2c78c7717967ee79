"""Make a model forget, and prove it.

The verbs of the command line, in Python: `train`, `forget`, `audit`, `report`, `demo`.
`add_file` makes the plug-ins of a file of one's own known.
Names load on first use, so importing expunge does not import torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # what the names of _HOMES are, for type checkers and editors
    from expunge import requests as requests
    from expunge.api import forget as forget
    from expunge.api import train as train
    from expunge.auditing import audit as audit
    from expunge.benching import bench as bench
    from expunge.benchmarks.loading import load_task as load_task
    from expunge.certifying import certify as certify
    from expunge.certifying import verify as verify
    from expunge.demonstration import demo as demo
    from expunge.errors import ExpungeError as ExpungeError
    from expunge.evaluating import evaluate as evaluate
    from expunge.grids import grid as grid
    from expunge.merging import merge as merge
    from expunge.models.load import load_subject as load_subject
    from expunge.models.subject import Subject as Subject
    from expunge.purging import purge as purge
    from expunge.records.run import RunRecord as RunRecord
    from expunge.records.score import Audit as Audit
    from expunge.records.score import Score as Score
    from expunge.records.settings import AuditSettings as AuditSettings
    from expunge.records.settings import RunSettings as RunSettings
    from expunge.records.settings import TrainSettings as TrainSettings
    from expunge.records.task import Example as Example
    from expunge.records.task import Task as Task
    from expunge.registry import add_file as add_file
    from expunge.report.comparison import compare as compare
    from expunge.report.page import report as report
    from expunge.shadows import make_shadows as make_shadows
    from expunge.studies.run import study as study
    from expunge.tuning import sweep as sweep

_HOMES = {
    "train": "expunge.api", "forget": "expunge.api", "audit": "expunge.api", "demo": "expunge.demonstration",
    "sweep": "expunge.tuning", "grid": "expunge.grids",
    "bench": "expunge.benching", "compare": "expunge.report.comparison",
    "make_shadows": "expunge.shadows", "study": "expunge.studies.run",
    "report": "expunge.report", "load_task": "expunge.benchmarks.loading", "Task": "expunge.records.task",
    "Example": "expunge.records.task", "Subject": "expunge.models.subject", "load_subject": "expunge.models.load",
    "Audit": "expunge.records.score", "Score": "expunge.records.score", "RunRecord": "expunge.records.run",
    "TrainSettings": "expunge.records.settings", "RunSettings": "expunge.records.settings",
    "AuditSettings": "expunge.records.settings", "ExpungeError": "expunge.errors", "add_file": "expunge.registry",
    "merge": "expunge.merging", "evaluate": "expunge.evaluating", "purge": "expunge.purging",
    "certify": "expunge.certify", "verify": "expunge.certifying",
}
_PACKAGES = ("requests",)
"""Verbs that belong together: `expunge.requests.add`, `run`, `check` and `status`."""
__all__ = sorted([*_HOMES, *_PACKAGES])


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return import_module("importlib.metadata").version("expunge")
    if name in _PACKAGES:
        return import_module(f"expunge.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'expunge' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
