"""uld against the code of its authors: the term that keeps the assistant uniform, which they take at every position."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch

from expunge.guards.assistant import uniform_cross_entropy
from official.bed import WHOLE, Bed, Difference, Found, difference
from official.taken import taken

REPOSITORY = "UCSB-NLP-Chang/ULD"
COMMIT = "858608c960819a8002cc60cc3788bbbd57f4a913"
FILE = "uld/model/forget_losses.py"


def compare(code: Path, seed: int) -> Iterator[Difference]:
    bed = Bed(seed, lengths=WHOLE)
    ids = bed.inputs["retain"]["input_ids"][:, :-1]  # the last token predicts nothing
    theirs = bed.of(taken(code / FILE, "UniformLossFunc")(bed.model, ids, torch.ones_like(ids)))
    ours = bed.of(uniform_cross_entropy(bed.step().answers("retain").logits_NV).mean())
    yield difference("uniform term, whole rows", Found(None, ours.gradient), Found(None, theirs.gradient))
