"""Where the published data sets are, if they are here."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data"


@pytest.fixture(scope="session")
def tofu() -> Path:
    """The folder with the TOFU files."""
    folder = Path(os.environ.get("EXPUNGE_TEST_DATA", SHARED)) / "tofu"
    if not (folder / "full.json").is_file():
        pytest.skip(f"the TOFU files are not in {folder}; EXPUNGE_TEST_DATA names the folder above them")
    return folder
