"""icu against the authors' training loop, on rows without padding whose every token but the first is an answer.

Their divergence also counts what the last token predicts; here its target is empty, and the coefficient makes up for
the position more in the mean.
"""

from __future__ import annotations

import ast
import copy
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from official.bed import Bed, Difference, Found, difference

REPOSITORY = "himalalps/ICU"
COMMIT = "bb776e39de81ebcb53d1e7e51031960ec4f6842c"
FILE = "train_neo_meanwhile_update.py"
LENGTH = 9


def body(file: Path) -> Any:
    """What stands inside `for batch_idx, batch in enumerate(unlearn_loader)`, ready to run."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    found = next(node for node in ast.walk(tree) if isinstance(node, ast.For) and "unlearn_loader" in
                 ast.unparse(node.iter))
    return compile(ast.Module(found.body, []), str(file), "exec")


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
    for ascent, learn, divergence in ((1.0, 0.5, 1.0), (0.5, 1.0, 0.1), (1.0, 0.5, 0.0)):
        model = copy.deepcopy(bed.model).requires_grad_(True)
        quiet = SimpleNamespace(zero_grad=lambda: None, step=lambda: None, info=lambda text: None)
        settings = SimpleNamespace(uw=ascent, lw=learn, kl=divergence * (LENGTH + 1) / LENGTH)
        space: dict[str, Any] = {
            "torch": torch, "batch": batch, "model": model, "optimizer": quiet, "logger": quiet, "device": "cpu",
            "args": settings, "tokenizer": SimpleNamespace(pad_token_id=-1), "epoch": 0, "batch_idx": 0,
            "unlearn_loader": [0]}
        exec(body(code / FILE), space)
        found = Found(float(space["loss"].detach()), [p.grad for p in model.parameters()])
        ours = bed.ours(f"icu(ascent={ascent}, learn={learn}, divergence={divergence})")
        yield difference(f"coefficients {ascent}, {learn}, {divergence}", ours, found)
