"""The demo: the whole journey on the built-in world, and the models of that world, trained once and kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from expunge import processes
from expunge.api import audit, forget, plan_untrained, train
from expunge.benchmarks.loading import load_task
from expunge.console import Reporter, default_reporter
from expunge.models.load import config_from
from expunge.records.base import cache_root, fingerprint, read_json
from expunge.records.run import RunRecord
from expunge.records.score import Audit
from expunge.records.settings import TrainSplit
from expunge.records.task import Task
from expunge.report.page import render

DEMO_RECIPE = ("ssd(alpha=1.2, lambda_=0.03) >> distil(teacher='original', likeliest=1, epochs=10) + adamw(lr=3e-3) >> "
               "npo + retain_nll(weight=3) + holdout_level + adamw(lr=4e-4)")
"""Found by hand; docs/results.md tells how."""
WORLD_TRAINING: dict[str, Any] = {"epochs": 30, "batch_size": 24, "lr": 3e-3}
"""Enough to know the built-in world by heart in about a minute on two cores."""
WORLD_SIZE = "tiny"
DEMO_SUITE = "scores,quick"
"""Every score and the cheapest attacks: the demo should not take minutes."""
DEMO_SETTINGS: dict[str, Any] = {"epochs": 2, "batch_size": 8}
OTHER_SETTINGS: dict[str, Any] = {"epochs": 32, "batch_size": 8}
"""Of recipes that are named instead of the default, such as npo, which forgets slowly without damage before it."""


def trained_world(task: Task, split: TrainSplit, *, size: str = WORLD_SIZE, seed: int = 0,
                  reporter: Reporter | None = None, **options: Any) -> Path:
    """A model of the built-in world, trained once and kept under the hash of all that made it."""
    made_of: dict[str, Any] = {"split": split, "size": config_from(size), "seed": seed, "task": task.fingerprint,
                               "torch": torch.__version__, "training": WORLD_TRAINING | options}
    place = cache_root() / "models" / f"{task.name.split('(')[0]}-{split}-{fingerprint(made_of)}"
    done = (place / "record.json").exists() and read_json(place / "record.json")["status"] == "finished"
    if not (done and (place / "model").exists()):
        train(size, task=task, out=place, split=split, seed=seed, resume=place.exists(), reporter=reporter,
              **(WORLD_TRAINING | options))
    return place


def demo(out: str | Path = "expunge-demo", *, method: str = DEMO_RECIPE, seed: int = 0,
         verbose: bool = False, reporter: Reporter | None = None, **options: Any) -> tuple[RunRecord, Audit, Path]:
    """The whole journey on the built-in world: train, forget, audit, page.

    Args:
        out: folder of the run.
        method: another recipe than the default.
        seed: one seed for everything random.
        verbose: say also how the rows are put to the model.
        reporter: where progress is shown.
        options: of the run, as in `forget`.
    """
    reporter, out = reporter or default_reporter(), Path(out)
    reporter.brief = not verbose
    processes.refuse_several("The demo")
    task = load_task("authors", seed=seed)
    chosen = (DEMO_SETTINGS if method == DEMO_RECIPE else OTHER_SETTINGS) | options
    plan_untrained(WORLD_SIZE, method=method, task=task, seed=seed, **chosen)  # refused before two models are trained
    reporter.note(f"1/3 a world of {len({r.entity for r in task.forget + task.retain})} invented authors; "
                  f"{len(task.forget)} rows to forget")
    original = trained_world(task, "full", seed=seed, reporter=reporter)
    retrained = trained_world(task, "retain", seed=seed + 1, reporter=reporter)
    reporter.note(f"2/3 forget by {method}")
    record = forget(original, task=task, method=method, out=out, seed=seed, overwrite=True, reporter=reporter,
                    **chosen)
    reporter.note("3/3 audit against the original and the retrained model, and make the page")
    evidence = audit(out, task=task, original=original, retrained=[retrained], suite=DEMO_SUITE, overwrite=True,
                  reporter=reporter)
    page = render([out], out=out / "report.html")
    reporter.close()
    assert isinstance(record, RunRecord) and isinstance(evidence, Audit)
    return record, evidence, page
