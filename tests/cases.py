"""Small inputs that went wrong once, and models and rows beside them, where their folder is here."""

from __future__ import annotations

from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared"


def case(name: str) -> Path:
    """A file of ../shared/cases; skips the test where it is not."""
    return _there(SHARED / "cases" / name)


def tofu_tiny() -> Path:
    """A small model that knows TOFU by heart; skips the test where it is not."""
    return _there(SHARED / "data" / "models" / "tofu_tiny" / "original")


def _there(path: Path) -> Path:
    if not path.exists():
        pytest.skip(f"{path} is not here")
    return path
