"""What the experiment scripts share: one measured run, stored results."""

from __future__ import annotations

import argparse
import json
import math
import shutil
import statistics
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

import expunge
from expunge.console import Reporter
from expunge.errors import InterruptedRun
from expunge.records.base import read_json
from expunge.records.run import RunRecord, environment
from expunge.records.task import Task
from expunge.tuning import FLOOR, merit

RESULTS = Path(__file__).resolve().parent.parent / "results"
SCHEMA = "expunge.results/1"
RECIPES = ("ga", "grad_diff", "npo", "npo + retain_nll", "npo + retain_kl", "simnpo", "idk", "dpo + retain_nll",
           "undial", "rmu")
"""The first recipes, as the papers pair them with retain terms."""


def measure(model: Path, task: Task, recipe: str, *, retrained: Sequence[Path], suite: str, seed: int,
            resamples: int = 1000, **settings: Any) -> dict[str, Any]:
    """Forget and audit once; returns recipe, settings, scores with intervals and controls, and times."""
    place = Path(tempfile.mkdtemp(prefix="expunge-"))
    try:
        quiet = Reporter(quiet=True)
        record = expunge.forget(model, task=task, method=recipe, out=place / "run", seed=seed, reporter=quiet,
                                **settings)
        found = expunge.audit(place / "run", task=task, original=model, retrained=retrained, suite=suite,
                              resamples=resamples, reporter=quiet)
        assert isinstance(record, RunRecord)
        return {
            "recipe": recipe, "seed": seed, "settings": settings,
            "scores": {s.name: s.value for s in found.scores},
            "intervals": {s.name: s.interval for s in found.scores if s.interval},
            "controls": {s.name: s.controls for s in found.scores},
            "verdict": found.verdict.outcome if found.verdict else None,
            "train_s": record.timing["train_s"], "steps": record.timing["steps"],
            "reason": record.reason, "kept": record.best.get("kept"), "alarms": list(record.alarms),
            "commit": record.environment["commit"],
        }
    except InterruptedRun:
        raise
    except expunge.ExpungeError as problem:  # a trial may diverge; that is a result, not the end
        return {"recipe": recipe, "seed": seed, "settings": settings, "scores": {}, "failed": problem.what}
    finally:
        shutil.rmtree(place, ignore_errors=True)


def study_parser(doc: str | None) -> argparse.ArgumentParser:
    """Of a study that keeps its rows in a folder and gathers them with --collect."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--collect", action="store_true")
    return parser


def started(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """What was asked for, on one thread, with the folder made."""
    given = parser.parse_args()
    torch.set_num_threads(1)
    given.work.mkdir(parents=True, exist_ok=True)
    return given


def kept_rows(work: Path) -> list[dict[str, Any]]:
    """The rows of a study, in the order of their folders."""
    return [read_json(path) for path in sorted(work.glob("*/row.json"))]


def standing(rows: Sequence[dict[str, Any]]) -> float:
    """What the sweeps choose by, as a median over rows of one method; a failed row counts as far behind."""
    found = []
    for row in rows:
        quality, utility = row["scores"].get("forget_quality"), row["scores"].get("model_utility")
        before = row["controls"].get("model_utility", {}).get("original") if row["scores"] else None
        found.append(-99.0 if quality is None or not before
                     else merit(math.log10(max(quality, FLOOR)), (utility or 0.0) / before))
    return statistics.median(found)


def store(name: str, data: dict[str, Any]) -> Path:
    """Write results/NAME.json with schema, environment and what was measured."""
    path = RESULTS / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    whole = {"schema": SCHEMA, "environment": environment(), **data}
    path.write_text(json.dumps(_short(whole), indent=1) + "\n")
    return path


def _short(value: Any) -> Any:
    """Floats to six digits: results are read, compared and kept in git."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {str(k): _short(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_short(v) for v in value]
    return value


def log(words: Iterable[Any]) -> None:
    print(*words, flush=True)
