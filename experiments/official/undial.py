"""undial against the trainer of its authors, which counts every position, padding too."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from official.bed import WHOLE, Bed, Difference, difference
from official.taken import instance

REPOSITORY = "dong-river/LLM_unlearning"
COMMIT = "89856dcb8ad4634ebcd8e7721b8ab575b82e4335"
FILE = "utils/ft_utils.py"


def compare(code: Path, seed: int) -> Iterator[Difference]:
    bed = Bed(seed, lengths=WHOLE)
    for strength in (3.0, 10.0):
        trainer = instance(code / FILE, "DITrainer", di_kwargs={"di_strength": strength, "focus": False}, device="cpu",
                           unlearn_teacher_model=bed.reference_model)
        theirs = trainer.compute_loss(bed.model, bed.inputs["forget"])
        yield difference(f"strength {strength}, whole rows without padding", bed.ours(f"undial(strength={strength})"),
                         bed.of(theirs))
