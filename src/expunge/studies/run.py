"""`study`: run one part after the other, keep what is finished, and write record and page."""

from __future__ import annotations

import shutil
import time
from importlib import import_module
from pathlib import Path
from typing import Any

from expunge import api, processes
from expunge.console import Reporter, default_reporter
from expunge.errors import InterruptedRun, UsageError, did_you_mean
from expunge.models.load import load_subject
from expunge.models.places import check_place
from expunge.output import check_same, prepare_output, refuse_output
from expunge.records.base import write_text
from expunge.records.run import environment
from expunge.records.study import Study, StudySettings
from expunge.records.task import Task
from expunge.report.study import render_study
from expunge.studies.design import Design

STUDIES = {"novice": "novice:Novice", "path_dependence": "paths:PathDependence", "outlandish": "outlandish:Outlandish",
           "traces": "traces:Traces", "worst_case": "worst_case:WorstCase"}
"""Name -> module and class."""


def design_of(name: str) -> type[Design]:
    """The study of this name. Raises UsageError where there is none."""
    if name not in STUDIES:
        raise UsageError(f"There is no study called {name!r}.", did_you_mean(name, STUDIES))
    module, attribute = STUDIES[name].split(":")
    found: type[Design] = getattr(import_module(f"expunge.studies.{module}"), attribute)
    return found


def study(name: str, *, out: str | Path, model: str | Path | None = None, task: Task | str | None = None,
          settings: StudySettings | None = None, resume: bool = False, overwrite: bool = False, dry_run: bool = False,
          reporter: Reporter | None = None, **options: Any) -> Study:
    """Run a small study of how models learn and forget.

    Args:
        name: outlandish (one row is injected: what is remembered, and how far it spreads), path_dependence (the same
            rows learned in other orders, then unlearned), novice (skills unlearned and learned again), traces (a
            classifier tells unlearned models from originals by answers to unrelated prompts) or worst_case (the rows
            that are hardest to forget).
        out: folder of the study.
        model: what it starts from, for studies that take one; else the built-in world's, or one it trains.
        task: a name, a run folder or a Task; a small built-in world by default.
        settings, options: `StudySettings`, or its fields by name.
        resume: go on in `out`; finished parts are not measured again.
        overwrite: replace `out`, if it is a folder of expunge's.
        dry_run: return the record as it would begin; nothing is trained or written.
        reporter: where progress is shown.

    Returns:
        The record, also in out/study.json; out/study.html shows it.

    Raises:
        UsageError: no such study, rows or a model that do not fit, or other settings than the study in `out`.
        InterruptedRun: Ctrl-C; finished parts are kept.
    """
    reporter, out = reporter or default_reporter(), Path(out)
    processes.refuse_several("A study")
    kind, given = design_of(name), StudySettings.build(settings, **options)
    if model is not None and not kind.starts_from:
        raise UsageError(f"The study {name} takes no model.", "It trains its own from new weights.", "Leave MODEL out.")
    if model is not None:
        check_place(model)
    if model is not None and task is None:
        raise UsageError("A study on a model of yours needs its task.", f"It takes {kind.starts_from}.",
                         "Give --task, or leave MODEL out for the built-in world.")
    filled = given.model_copy(update={k: v for k, v in kind.defaults.items() if k not in given.model_fields_set
                                      or getattr(given, k) is None})
    rows = api.as_task(task if task is not None else kind.world, filled)
    if model is None and not rows.name.startswith("authors") and kind.starts_from:
        raise UsageError(f"The study {name} on a task of yours needs its model.", f"It takes {kind.starts_from}.",
                         "Give MODEL; `expunge train --split full` makes one.")
    design = kind(task=rows, model=None if model is None else str(model), settings=filled, work=out / "work",
                  reporter=reporter)
    made = Study(name=name, model=str(model or ""), task=rows.name, task_fingerprint=rows.fingerprint,
                 settings=filled.model_dump(mode="json", include={"count", "steps", "method", "batch_size", "epochs"})
                 | {"lr": filled.lr, "seed": filled.seed}, environment=environment(), planned=tuple(design.planned()))
    if dry_run:
        return made
    reads = [] if model is None else [model]
    refuse_output(out, resume=resume, overwrite=overwrite, reads=reads)
    if resume and not overwrite and (out / Study.FILE).exists():
        before = Study.read(out / Study.FILE)
        check_same("The study in this folder was", before, made, ("name", "model", "settings", "task_fingerprint"))
        made = made.model_copy(update={"parts": before.parts, "seconds": before.seconds})
    if model is not None:
        load_subject(model)  # what cannot be read is refused before the folder is made
    prepare_output(out, resume=resume, overwrite=overwrite, reads=reads)
    made.write(out / Study.FILE)
    tick = reporter.task(f"parts of {name}", len(made.planned))
    tick(len(made.parts))
    try:
        for part in made.planned:
            if part not in made.parts:
                began = time.perf_counter()
                measured = design.measure(part)
                made = made.model_copy(update={"parts": made.parts | {part: measured},
                                               "seconds": made.seconds + time.perf_counter() - began})
                made.write(out / Study.FILE)
                tick(1, part)
    except (KeyboardInterrupt, InterruptedRun):
        raise InterruptedRun(f"The study was interrupted after {len(made.parts)} of {len(made.planned)} parts.",
                             "Finished parts are kept.", "Go on with the same command and --resume.") from None
    finally:
        reporter.close()
    shutil.rmtree(design.work, ignore_errors=True)
    made = made.model_copy(update={"found": design.found(made.parts)})
    made.write(out / Study.FILE)
    write_text(out / "study.html", render_study(made))
    return made
