"""A search that is killed with SIGKILL goes on where it was, shows what it does, and ends near its budget."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from expunge.records.choice import Choice
from expunge.testing import support

TASK = "authors(forget=4,retain=8,holdout=4,neighbours=2)"
BUDGET = 60
"""Seconds that the search goes on with; it began with more, so that it was at work when it was killed."""


@pytest.mark.slow
def test_a_killed_search_goes_on_and_ends_at_its_budget(cli: Any, tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    config, original, out = tmp_path / "config.json", tmp_path / "original", tmp_path / "run"
    config.write_text(json.dumps(support.CONFIG))
    cli("train", config, "--task", TASK, "--out", original, "--epochs", 25, "--lr", "5e-3", "--batch-size", 16)
    words = ["forget", original, "--task", TASK, "--method", "auto", "--against", "text", "--epochs", 3,
             "--out", out, "--budget"]
    command = [sys.executable, "-m", "expunge", *map(str, words), "10m"]
    environment = os.environ | {"COLUMNS": "200", "OMP_NUM_THREADS": "1"}
    first = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline and first.poll() is None:
        if (out / "auto" / Choice.FILE).exists() and Choice.read(out / "auto").trials:
            break
        time.sleep(0.1)
    first.send_signal(signal.SIGKILL)
    assert first.wait() == -signal.SIGKILL, "it had ended before"
    half = Choice.read(out / "auto")
    assert half.trials and half.chosen is None and not half.ended
    refused = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
    assert refused.returncode == 2 and "--resume" in refused.stderr and "Traceback" not in refused.stderr
    again = subprocess.run([*command[:-1], f"{BUDGET}s", "--resume"], capture_output=True, text=True,
                           timeout=400, env=environment)
    assert again.returncode == 0, again.stderr
    assert "min left" in again.stderr, "progress tells the remaining budget"
    assert "Chosen after" in again.stdout
    made = Choice.read(out / "auto")
    assert made.trials[:len(half.trials)] == half.trials and made.chosen is not None
    assert made.ended == "budget" and made.spent_s >= half.spent_s
    longest = max(t.total_s for t in made.trials)
    assert made.spent_s <= max(BUDGET, half.spent_s) + 2 * longest, "at most the work in hand comes after the budget"
    assert json.loads((out / "record.json").read_text())["status"] == "finished"
