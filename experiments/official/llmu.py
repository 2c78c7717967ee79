"""llmu against the functions of its authors.

Their mean divides by one position more than it sums, unless a row ends with the token that they take for padding."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch

from official.bed import EQUAL, WHOLE, Bed, Difference, Found, difference
from official.taken import taken

REPOSITORY = "kevinyaobytedance/llm_unlearn"
COMMIT = "647f309519f91c29d87e62cf63d9a43759810040"
FILE = "utils.py"


PADDING = 1


def compare(code: Path, seed: int) -> Iterator[Difference]:
    bed = Bed(seed, ("forget", "unrelated_1", "unrelated_2"), lengths=EQUAL, last=PADDING)
    loss = taken(code / FILE, "get_answer_loss")

    def theirs(kind: str, *sides: str) -> torch.Tensor:
        rows = [bed.inputs[side] for side in sides]
        batch = {name: torch.cat([row[name] for row in rows]) for name in ("input_ids", "attention_mask")}
        starts = [row.prompt - 1 for side in sides for row in bed.batches[side].rows]
        return loss(kind, {**batch, "start_locs": starts, "labels": batch["input_ids"]}, bed.model, device="cpu")

    whole = 0.5 * theirs("ga", "forget") + theirs("gd", "unrelated_1", "unrelated_2")
    yield difference("ascent 0.5, two unrelated answers, equal lengths", bed.ours("llmu(answers=2)"), bed.of(whole))
    bed = Bed(seed, lengths=WHOLE)
    ids = bed.inputs["retain"]["input_ids"][:, :-1]
    kept = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}
    divergence = bed.of(taken(code / FILE, "compute_kl")(bed.reference_model, bed.model, kept, "cpu"))
    yield difference("its retain_kl, whole rows", bed.ours("retain_kl"), Found(None, divergence.gradient))
