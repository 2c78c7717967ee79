"""What is set for the whole process: asked for where the user has said nothing, and put back."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from pathlib import Path

import pytest

from expunge.errors import MissingError
from expunge.models.load import load_subject, read_config


@pytest.mark.parametrize(("said", "found"), [(None, "1"), ("0", "0")])
def test_large_pages_are_asked_for(said: str | None, found: str) -> None:
    env = {k: v for k, v in os.environ.items() if k != "THP_MEM_ALLOC_ENABLE"}
    env |= {} if said is None else {"THP_MEM_ALLOC_ENABLE": said}
    # In a process of its own: here torch has long made its first tensor, and something may have set it.
    code = "import sys, os, expunge.cli.main; print(os.environ['THP_MEM_ALLOC_ENABLE'])"
    run = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == found


def test_garbage_is_looked_for_as_before_once_a_model_is_loaded(tmp_path: Path) -> None:
    before = gc.get_threshold()
    gc.set_threshold(123, 4, 5)
    try:
        for load in (read_config, load_subject):
            with pytest.raises(MissingError):
                load(tmp_path / "nothing")
            assert gc.get_threshold() == (123, 4, 5)
    finally:
        gc.set_threshold(*before)
