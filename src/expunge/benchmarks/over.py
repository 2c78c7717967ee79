"""Tasks that put rows of their own beside those of another one: what is to be forgotten stands there."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from expunge.benchmarks.tofu import tofu_task
from expunge.data.world import authors_task
from expunge.records.task import Task

Over = Literal["authors", "tofu:forget01", "tofu:forget05", "tofu:forget10"]
OVER = "The task whose rows are to be forgotten and to be kept: authors, or a part of TOFU such as tofu:forget01."


def base_task(over: Over, data_dir: Path | None, seed: int = 0) -> Task:
    """The task that brings the rows to forget; the seed is of the world `authors`.

    Raises:
        MissingError: the files of TOFU are not here.
    """
    return authors_task(seed=seed) if over == "authors" else tofu_task(over.removeprefix("tofu:"), data_dir)
