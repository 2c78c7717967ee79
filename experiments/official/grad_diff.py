"""grad_diff, a sum of ga and retain_nll, against open-unlearning."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from official.bed import Bed, Difference, difference
from official.taken import instance

REPOSITORY = "locuslab/open-unlearning"
COMMIT = "d3d7cf9e6b3c125d16687d4232680d8d83548f1a"
FILE = "src/trainer/unlearn/grad_diff.py"


def compare(code: Path, seed: int) -> Iterator[Difference]:
    bed = Bed(seed)
    trainer = instance(code / FILE, "GradDiff", gamma=0.7, alpha=1.3, retain_loss_type="NLL")
    theirs = trainer.compute_loss(bed.model, bed.inputs)
    ours = bed.ours("ga(weight=0.7) + retain_nll(weight=1.3)")
    yield difference("weights 0.7 and 1.3", ours, bed.of(theirs))
