"""task_vector against MUSE's: the negated change, given the fine-tuned model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from expunge.methods.edits.task_vector import negate
from official.bed import Bed, Difference, Found, difference
from official.taken import taken

REPOSITORY = "swj0419/muse_bench"
COMMIT = "fcd6651da8bcf34744fb9a1cc69bb856ab3eb277"
FILE = "baselines/baselines/task_vector.py"


def compare(code: Path, seed: int) -> Iterator[Difference]:
    bed, vector = Bed(seed), taken(code / FILE, "TaskVector")
    before, learned = bed.model.state_dict(), bed.reference_model.state_dict()
    for scale in (0.5, 3.0):
        negative = -vector(pretrained_state_dict=before, finetuned_state_dict=learned)
        theirs = negative.apply_to(pretrained_model=bed.model, scaling_coef=scale, in_place=False)
        ours = negate(before, learned, scale)
        yield difference(f"change of the weights, scale {scale}",
                         Found(None, [ours[n] - before[n] for n in before]),
                         Found(None, [theirs[n] - before[n] for n in before]))
