"""What is set for the whole process: asked for where the user has said nothing, and put back."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

COMMAND_LINE = "from expunge.models import fast; fast.use_process_wide_tricks(); "
"""What `main()` calls first; importing expunge changes nothing."""


@pytest.mark.parametrize(("said", "found"), [(None, "1"), ("0", "0")])
def test_large_pages_are_asked_for(said: str | None, found: str) -> None:
    env = {k: v for k, v in os.environ.items() if k != "THP_MEM_ALLOC_ENABLE"}
    env |= {} if said is None else {"THP_MEM_ALLOC_ENABLE": said}
    # In a process of its own: here torch has long made its first tensor, and something may have set it.
    code = f"import os; {COMMAND_LINE}print(os.environ['THP_MEM_ALLOC_ENABLE'])"
    run = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == found


def test_garbage_is_looked_for_once_a_model_is_there(model: Path) -> None:
    """By the command line; a library leaves the user's collector alone."""
    code = ("import gc; {}from expunge.models.load import load_subject; found = [gc.isenabled()]; "
            "load_subject({!r}); print(*found, gc.isenabled(), gc.get_freeze_count() > 0)")
    for first, found in ((COMMAND_LINE, "False True True"), ("import expunge.cli.main; ", "True True False"),
                         (f"gc.disable(); {COMMAND_LINE}", "False False False")):
        run = subprocess.run([sys.executable, "-c", code.format(first, str(model))], capture_output=True, text=True,
                             check=True)
        assert run.stdout.strip() == found
