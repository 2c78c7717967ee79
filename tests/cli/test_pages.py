"""The command line asks PyTorch for large pages, unless its user has said something about them."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest


@pytest.mark.parametrize(("said", "found"), [(None, "1"), ("0", "0")])
def test_large_pages_are_asked_for(said: str | None, found: str) -> None:
    env = {k: v for k, v in os.environ.items() if k != "THP_MEM_ALLOC_ENABLE"}
    env |= {} if said is None else {"THP_MEM_ALLOC_ENABLE": said}
    # In a process of its own: here torch has long made its first tensor, and something may have set it.
    code = "import sys, os, expunge.cli.main; print(os.environ['THP_MEM_ALLOC_ENABLE'])"
    run = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == found
