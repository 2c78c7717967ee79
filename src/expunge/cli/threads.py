"""How many threads a command uses: as many as the process has cores, no more.

PyTorch counts the cores of the machine. In a container that may use two of them it would start one thread for each of
64, and these wait for each other. The number never depends on how busy the machine is, since it changes rounding.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")


def available_cores(cgroups: Path = CGROUPS, own: Path = Path("/proc/self/cgroup")) -> int:
    """Cores that this process may use: those it is bound to, no more than the quota of its control group, at least 1.

    Args:
        cgroups: where control groups are mounted.
        own: the file that tells the group of this process.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(int(min([float(cores), *_quotas(cgroups, own)])), 1)


def _quotas(cgroups: Path, own: Path) -> Iterator[float]:
    """Cores that each group above the process allows, in version 2 and version 1 of control groups."""
    try:
        groups = [line.split(":", 2)[2] for line in own.read_text(encoding="utf-8").splitlines() if line.count(":") > 1]
    except OSError:  # not Linux
        return
    for group in groups:
        for folder in (cgroups / group.lstrip("/"), *(cgroups / group.lstrip("/")).parents):
            if not folder.is_relative_to(cgroups):
                break
            yield from _limit(folder / "cpu.max")
    for folder in (cgroups / "cpu", cgroups / "cpu,cpuacct"):
        yield from _limit(folder / "cpu.cfs_quota_us", folder / "cpu.cfs_period_us")


def _limit(*files: Path) -> Iterator[float]:
    """quota / period, both in microseconds, from one file or two; nothing where there is no limit."""
    try:
        quota, period = " ".join(file.read_text(encoding="utf-8") for file in files).split()
        if float(quota) > 0:
            yield float(quota) / float(period)
    except (OSError, ValueError):  # no such file, or the word "max"
        return


def use_available_cores() -> None:
    """Set OMP_NUM_THREADS unless the user has. Call it before PyTorch is imported, from a program and not a library."""
    os.environ.setdefault("OMP_NUM_THREADS", str(available_cores()))
