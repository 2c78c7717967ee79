"""tnpo against the trainer of its authors."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from official.bed import Bed, Difference, difference
from official.g_effect import COMMIT as COMMIT
from official.g_effect import FILE as FILE
from official.g_effect import REPOSITORY as REPOSITORY
from official.g_effect import their_loss


def compare(code: Path, seed: int) -> Iterator[Difference]:
    bed = Bed(seed)
    for beta in (0.5, 4.0):
        yield difference(f"beta {beta}, epsilon 1e-5", bed.ours(f"tnpo(beta={beta}, epsilon=1e-5)"),
                         their_loss(code, bed, "tnpo", beta))
