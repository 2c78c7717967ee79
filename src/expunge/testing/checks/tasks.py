"""Promises of tasks: a name leads back to its rows, and its splits are what they are called."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from expunge.benchmarks.base import TaskPlugin
from expunge.benchmarks.loading import load_task
from expunge.data.tasks import check_overlap
from expunge.errors import MissingError
from expunge.records.task import SPLITS, Task

from ..layouts import written
from .base import check

TEST_DATA = "EXPUNGE_TEST_DATA"
"""The variable that names the folder of published data sets; of one that is not there, made-up rows are read."""


def rows_of(plugin: type[TaskPlugin], options: dict[str, Any] | None) -> tuple[Task, Path | None]:
    """What it loads from files that are here or were made up, and from where; nothing is downloaded."""
    named = Path(os.environ[TEST_DATA]) if os.environ.get(TEST_DATA) else None
    with patch.dict(sys.modules, {"datasets": None}):
        for place in (named, written(plugin.card.name)):
            try:
                return plugin(**(options or {})).load(place), place
            except MissingError as problem:
                missing = problem.what
        pytest.skip(f"the data of {plugin.card.name} is not here: {missing}")


@check
def name_leads_back(plugin: type[TaskPlugin], options: dict[str, Any] | None = None) -> None:
    """The same rows by name, whole and limited, and every name it lists is one that loads."""
    task, place = rows_of(plugin, options)
    assert load_task(task.name, data_dir=place) == task
    cut = load_task(task.name, data_dir=place, limit=3)
    assert len(cut.forget) <= 3 and load_task(cut.name, data_dir=place) == cut
    assert plugin.names() and all(name.split(":")[0] == plugin.card.name for name in plugin.names())


@check
def splits_are_apart(plugin: type[TaskPlugin], options: dict[str, Any] | None = None,
                     own_questions: bool = False) -> None:
    """Ids differ, there is something to forget, and no row to forget or hold out is trained on elsewhere.

    Probe rows are rows of their split; those of a task with `own_questions` may also be of no split.
    """
    task, _ = rows_of(plugin, options)
    ids = [row.id for split in SPLITS for row in task.split(split)]
    assert task.forget and len(set(ids)) == len(ids)
    check_overlap(task)
    for split, rows in task.probes.items():
        mine = {r.id for r in task.split(split)}  # type: ignore[arg-type]
        asked = {r.id for r in rows}
        assert rows and len(asked) == len(rows) and not asked & (set(ids) - mine)
        assert own_questions or asked <= mine
