"""fedadagrad against the authors' code: how far the server moves in four rounds of three clients."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from official import server_bed
from official.bed import Difference
from official.server_bed import COMMIT, FILE, REPOSITORY, with_moments

__all__ = ["COMMIT", "FILE", "REPOSITORY", "compare"]
WHAT = "change of the server over four rounds"


def compare(code: Path, seed: int) -> Iterator[Difference]:
    yield from server_bed.compare(code, seed, "fedadagrad", with_moments("server_velocity"), WHAT, "FedAdagrad")
