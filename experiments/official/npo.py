"""npo against the port of open-unlearning."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from official.bed import Bed, Difference, difference
from official.taken import taken

REPOSITORY = "locuslab/open-unlearning"
COMMIT = "d3d7cf9e6b3c125d16687d4232680d8d83548f1a"
FILE = "src/trainer/utils.py"


def compare(code: Path, seed: int) -> Iterator[Difference]:
    bed, loss = Bed(seed), taken(code / FILE, "compute_dpo_loss")
    for beta in (0.1, 0.5):
        theirs, _ = loss(bed.model, bed.reference_model, win_inputs=None, lose_inputs=bed.inputs["forget"], beta=beta)
        yield difference(f"beta {beta}", bed.ours(f"npo(beta={beta})"), bed.of(theirs))
