"""A tiny model that is served without a network."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.serve.asking import Client, loaded, serving


@pytest.fixture(scope="module")
def subject(model: Path) -> Any:
    return loaded(model)


@pytest.fixture(scope="module")
def client(subject: Any) -> Iterator[Client]:
    """A service with its defaults; tests of other options make their own."""
    with serving(subject) as made:
        yield made
