"""wga against the trainer of its authors."""

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
    for power in (1.0, 5.0):
        theirs = their_loss(code, bed, "wga", power)
        yield difference(f"alpha {power}", bed.ours(f"wga(alpha={power})"), theirs)
