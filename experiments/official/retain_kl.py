"""retain_kl against open-unlearning, which counts every position: it reads rows that all are supervised."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from official.bed import WHOLE, Bed, Difference, difference
from official.taken import taken

REPOSITORY = "locuslab/open-unlearning"
COMMIT = "d3d7cf9e6b3c125d16687d4232680d8d83548f1a"
FILE = "src/trainer/utils.py"


def compare(code: Path, seed: int) -> Iterator[Difference]:
    bed = Bed(seed, lengths=WHOLE)
    without_last = {"input_ids": bed.inputs["retain"]["input_ids"][:, :-1]}  # the last token predicts nothing
    theirs, _ = taken(code / FILE, "compute_kl_divergence")(bed.model, bed.reference_model, without_last)
    yield difference("whole rows without padding", bed.ours("retain_kl"), bed.of(theirs))
