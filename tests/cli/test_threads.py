"""As many threads as the process really has cores."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from expunge.cli.threads import available_cores


@pytest.fixture
def eight_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)


def groups(root: Path, files: dict[str, str], own: str = "0::/a/b\n") -> int:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    (root / "own").write_text(own)
    return available_cores(root, root / "own")


@pytest.mark.usefixtures("eight_cores")
@pytest.mark.parametrize(("files", "cores"), [
    ({}, 8), ({"a/b/cpu.max": "max 100000\n"}, 8), ({"a/b/cpu.max": "200000 100000\n"}, 2),
    ({"a/b/cpu.max": "max 100000\n", "a/cpu.max": "350000 100000\n"}, 3), ({"cpu.max": "50000 100000\n"}, 1),
    ({"cpu/cpu.cfs_quota_us": "400000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 4),
    ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 8), ({"cpu.max": "broken"}, 8),
])
def test_the_smallest_limit_counts(tmp_path: Path, files: dict[str, str], cores: int) -> None:
    assert groups(tmp_path, files) == cores


@pytest.mark.usefixtures("eight_cores")
def test_without_control_groups_the_bound_cores_count(tmp_path: Path) -> None:
    assert available_cores(tmp_path, tmp_path / "none") == 8


def threads(**environment: str) -> str:
    code = "from expunge.cli.threads import use_available_cores; use_available_cores(); import torch; " \
           "print(torch.get_num_threads())"
    kept = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    return subprocess.run([sys.executable, "-c", code], env=kept | environment, capture_output=True, text=True,
                          check=True).stdout.strip()


def test_pytorch_follows_and_the_user_has_the_last_word() -> None:
    assert threads() == str(available_cores())
    assert threads(OMP_NUM_THREADS="1") == "1"
