"""Warm the shared model before the first test, so that no single test looks slow."""

from __future__ import annotations

import pytest

from expunge.models.subject import Subject
from expunge.testing.support import memoriser


@pytest.fixture(scope="session")
def original() -> Subject:
    """The model before unlearning. Never change it."""
    return memoriser()
