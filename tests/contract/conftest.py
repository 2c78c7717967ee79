"""Warm the shared model before the first test, so that no single test looks slow."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from expunge.models.language import CausalLM
from expunge.testing.checks.tasks import TEST_DATA
from expunge.testing.support import memoriser

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data"
"""Published data sets, where they are here: tasks promise something of their rows."""
if SHARED.is_dir():
    os.environ.setdefault(TEST_DATA, str(SHARED))


@pytest.fixture(scope="session")
def original() -> CausalLM:
    """The model before unlearning. Never change it."""
    return memoriser()
