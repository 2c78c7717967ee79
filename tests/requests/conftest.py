"""What tests of requests share; each module has a task of its own."""

from __future__ import annotations

import pytest

from expunge.records.task import Task


@pytest.fixture(scope="module")
def names(task: Task) -> list[str]:
    """The people who are to be forgotten, in the order of their rows."""
    return list(dict.fromkeys(row.entity for row in task.forget))
