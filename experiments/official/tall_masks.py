"""tall_masks against the code of its authors: the masks of several tasks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch

from expunge.methods._lib.task_masks import summed, tall_mask
from official.bed import Difference, Found, difference
from official.edit_bed import print_nothing
from official.taken import taken

REPOSITORY = "nik-dim/tall_masks"
COMMIT = "d10af8b21383322367fb35474bd9cd0f9ebe9ecf"
FILE = "src/utils/tallmask_utils.py"


def compare(code: Path, seed: int) -> Iterator[Difference]:
    source = torch.Generator().manual_seed(seed)
    start_P = torch.randn(500, generator=source, dtype=torch.float64)
    vectors_TP = torch.randn(3, 500, generator=source, dtype=torch.float64)
    their_masks = taken(code / FILE, "generate_task_masks", log_wandb_mask_sparsity=print_nothing, print=print_nothing)
    for threshold in (0.2, 0.6):
        theirs_TP = their_masks(vectors_TP, start_P + vectors_TP, start_P, tall_mask_lambda=threshold)
        tasks = [{"w": vector_P} for vector_P in vectors_TP]
        ours = [tall_mask(task, summed(tasks), threshold)["w"].double() for task in tasks]
        yield difference(f"masks of three tasks, lambda {threshold}", Found(None, ours),
                         Found(None, list(theirs_TP.double())))
