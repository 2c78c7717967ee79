"""Make a model forget, and prove it.

The verbs of the command line, in Python: `train`, `forget`, `audit`, `report`, `demo`.
`add_file` makes the plug-ins of a file of one's own known.
Names load on first use, so importing expunge does not import torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOMES = {
    "train": "expunge.api", "forget": "expunge.api", "audit": "expunge.api", "demo": "expunge.demonstration",
    "sweep": "expunge.tuning", "grid": "expunge.grids", "compare": "expunge.report.comparison",
    "make_shadows": "expunge.shadows",
    "report": "expunge.report", "load_task": "expunge.benchmarks.loading", "Task": "expunge.records.task",
    "Example": "expunge.records.task", "Subject": "expunge.models.subject", "load_subject": "expunge.models.load",
    "Audit": "expunge.records.score", "Score": "expunge.records.score", "RunRecord": "expunge.records.run",
    "TrainSettings": "expunge.records.settings", "RunSettings": "expunge.records.settings",
    "AuditSettings": "expunge.records.settings", "ExpungeError": "expunge.errors", "add_file": "expunge.registry",
    "merge": "expunge.merging", "evaluate": "expunge.evaluating", "purge": "expunge.purging",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return import_module("importlib.metadata").version("expunge")
    if name not in _HOMES:
        raise AttributeError(f"module 'expunge' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
