"""ce_u against its author's contribution to open-unlearning."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from official.bed import Bed, Difference, difference
from official.taken import taken

REPOSITORY = "locuslab/open-unlearning"
COMMIT = "d3d7cf9e6b3c125d16687d4232680d8d83548f1a"
FILE = "src/trainer/unlearn/ceu.py"


def compare(code: Path, seed: int) -> Iterator[Difference]:
    bed, loss = Bed(seed), taken(code / FILE, "compute_batch_ceu")
    for skip in (0, 1, 2):
        theirs, _ = loss(bed.model, bed.inputs["forget"], ignore_first_n_answer_tokens=skip)
        yield difference(f"skip {skip}", bed.ours(f"ce_u(skip={skip})"), bed.of(theirs))
