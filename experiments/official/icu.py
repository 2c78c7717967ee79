"""icu against the authors' training loop, on rows without padding whose every token but the first is an answer.

Their divergence also counts what the last token predicts; here its target is empty, and the coefficient makes up for
the position more in the mean.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from official.bed import Bed, Difference, difference
from official.taken import statements

REPOSITORY = "himalalps/ICU"
COMMIT = "bb776e39de81ebcb53d1e7e51031960ec4f6842c"
FILE = "train_neo_meanwhile_update.py"
LENGTH = 9
LINES = 19
"""Statements from the start of a step to its loss."""


def compare(code: Path, seed: int) -> Iterator[Difference]:
    bed = Bed(seed, ("forget", "learn"), [(1, LENGTH)] * 4)
    inputs = {side: bed.inputs[side]["input_ids"] for side in ("forget", "learn")}
    with torch.no_grad():
        original = bed.reference_model(inputs["learn"]).logits.softmax(-1)
    original[:, -1] = 0
    batch = {"unlearn_flag": torch.ones(4), "learn_flag": torch.ones(4), "learn_prob": original}
    for theirs, side in (("unlearn", "forget"), ("learn", "learn")):
        batch |= {f"{theirs}_prefix_ids": inputs[side], f"{theirs}_suffix_ids": inputs[side].clone(),
                  f"{theirs}_prefix_mask": torch.ones_like(inputs[side])}
    step = statements(code / FILE, "optimizer.zero_grad()", LINES)
    for ascent, learn, divergence in ((1.0, 0.5, 1.0), (0.5, 1.0, 0.1), (1.0, 0.5, 0.0)):
        space: dict[str, Any] = {
            "torch": torch, "batch": batch, "model": bed.model, "device": "cpu",
            "optimizer": SimpleNamespace(zero_grad=lambda: None), "tokenizer": SimpleNamespace(pad_token_id=-1),
            "args": SimpleNamespace(uw=ascent, lw=learn, kl=divergence * (LENGTH + 1) / LENGTH)}
        exec(step, space)
        ours = bed.ours(f"icu(ascent={ascent}, learn={learn}, divergence={divergence})")
        yield difference(f"coefficients {ascent}, {learn}, {divergence}", ours, bed.of(space["loss"]))
