"""What the experiment scripts share: one measured run, stored results, random draws from search spaces."""

from __future__ import annotations

import json
import math
import random
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import expunge
from expunge.console import Reporter
from expunge.errors import InterruptedRun
from expunge.methods.recipe import parse
from expunge.records.run import RunRecord, environment
from expunge.records.task import Task

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
        }
    except InterruptedRun:
        raise
    except expunge.ExpungeError as problem:  # a trial may diverge; that is a result, not the end
        return {"recipe": recipe, "seed": seed, "settings": settings, "scores": {}, "failed": problem.what}
    finally:
        shutil.rmtree(place, ignore_errors=True)


def draw(recipe: str, rng: random.Random) -> str:
    """The recipe with every searchable option of its loss terms drawn from the plug-in's own space."""
    stage = parse(recipe)[0]
    terms = [p for p in (stage.objective, *stage.retain) if p is not None]
    if recipe == "rmu":  # its companion takes weight from alpha
        terms = [p for p in terms if p.card.name == "rmu"]
    parts = []
    for plugin in terms:
        space = {k: v for k, v in plugin.space.items()
                 # One of the two weights is enough: only their ratio and the learning rate matter.
                 if not (k == "weight" and plugin.card.kind == "objective" and stage.retain)}
        options = ", ".join(f"{k}={_draw(v, rng):.3g}" for k, v in space.items())
        parts.append(f"{plugin.card.name}({options})" if options else plugin.card.name)
    return " + ".join(parts)


def _draw(space: tuple[Any, ...], rng: random.Random) -> float:
    kind, low, high = space
    if kind == "log":
        return math.exp(rng.uniform(math.log(low), math.log(high)))
    return rng.uniform(low, high)


def learning_rate(rng: random.Random, low: float = 1e-4, high: float = 2e-3) -> float:
    """Log-uniform, three digits."""
    return float(f"{math.exp(rng.uniform(math.log(low), math.log(high))):.3g}")


def merit(scores: dict[str, float | None], utility_of_original: float) -> float:
    """log10 of forget quality, less a steep price for every point of utility below 95 % of the original's."""
    quality, utility = scores.get("forget_quality"), scores.get("model_utility")
    if quality is None or utility is None:
        return -math.inf
    return math.log10(max(quality, 1e-12)) - 40 * max(0.0, 0.95 - utility / utility_of_original)


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
