"""ga against open-unlearning."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from official.bed import Bed, Difference, difference
from official.taken import instance

REPOSITORY = "locuslab/open-unlearning"
COMMIT = "d3d7cf9e6b3c125d16687d4232680d8d83548f1a"
FILE = "src/trainer/unlearn/grad_ascent.py"


def compare(code: Path, seed: int) -> Iterator[Difference]:
    bed = Bed(seed)
    theirs = instance(code / FILE, "GradAscent").compute_loss(bed.model, bed.inputs)
    yield difference("mean over tokens", bed.ours("ga"), bed.of(theirs))
