"""Warm the shared model before the first test, so that no single test looks slow."""

from __future__ import annotations

import pytest

from expunge.models.language import CausalLM
from expunge.testing.support import memoriser


@pytest.fixture(scope="session")
def original() -> CausalLM:
    """The model before unlearning. Never change it."""
    return memoriser()
