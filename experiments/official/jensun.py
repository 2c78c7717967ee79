"""jensun and its retain term against the authors' code, padding included."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch

from expunge.methods.objectives.jensun import tokens_of
from official.bed import Bed, Difference, difference
from official.taken import taken

REPOSITORY = "nmndeep/JensUn-Unlearning"
COMMIT = "9d0cfd5101cb15b24c777618cd29a538d913c9ac"
FILE = "src/trainer/utils.py"


def compare(code: Path, seed: int) -> Iterator[Difference]:
    bed = Bed(seed)
    forget, retain = taken(code / FILE, "jensun_multitok_loss"), taken(code / FILE, "jensun_retain_loss")
    for refusal in ("No idea", ","):
        torch.set_default_dtype(torch.float64)  # their targets are written in the default type
        try:
            theirs, _ = forget(bed.model, bed.inputs["forget"], list(tokens_of(refusal, bed.subject.encoder)))
        finally:
            torch.set_default_dtype(torch.float32)
        yield difference(f"forget term, refusal {refusal!r}", bed.ours(f"jensun(refusal={refusal!r})"), bed.of(theirs))
    theirs, _ = retain(bed.model, bed.reference_model, bed.inputs["retain"])
    yield difference("retain term", bed.ours("retain_js"), bed.of(theirs))
