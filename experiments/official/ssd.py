"""ssd against the class of its authors: importances, then dampened weights."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch

from expunge.methods._lib.importance import importance
from expunge.methods.edits.ssd import dampen
from official.bed import WHOLE, Bed, Difference, Found, Positions, difference
from official.taken import taken

REPOSITORY = "if-loops/selective-synaptic-dampening"
COMMIT = "cdfdc0e35c1908e032a6e150d882b0fa17833f85"
FILE = "src/ssd.py"
SETTINGS = {"lower_bound": 1, "exponent": 1, "magnitude_diff": None, "min_layer": -1, "max_layer": -1,
            "forget_threshold": 1}
"""What their class asks for beside alpha and lambda; the formula of the paper."""


def compare(code: Path, seed: int) -> Iterator[Difference]:
    bed = Bed(seed, lengths=WHOLE)
    flat = Positions(bed.model)
    settings = {**SETTINGS, "selection_weighting": 1.2, "dampening_constant": 0.5}
    theirs = taken(code / FILE, "ParameterPerturber")(flat, torch.optim.SGD(flat.parameters()), "cpu", settings)
    rows = {side: [(ids[None], None, ids[None, 1:]) for ids in x["input_ids"]] for side, x in bed.inputs.items()}
    forget, everything = theirs.calc_importance(rows["forget"]), theirs.calc_importance(rows["forget"] + rows["retain"])
    chosen = list(bed.batches["forget"].rows), [row for batch in bed.batches.values() for row in batch.rows]
    mine = [importance(bed.subject, few, batch_size=1) for few in chosen]
    yield difference("importance of single rows", Found(None, list(mine[0].values())),
                     Found(None, list(forget.values())))
    ours = [dampen(p.detach(), mine[0][name], mine[1][name], 1.2, 0.5) for name, p in bed.named.items()]
    before = [p.detach().clone() for p in bed.model.parameters()]
    theirs.modify_weight(everything, forget)
    moved = [p.detach() - b for p, b in zip(bed.model.parameters(), before, strict=True)]
    yield difference("change of the weights, alpha 1.2, lambda 0.5",
                     Found(None, [o - b for o, b in zip(ours, before, strict=True)]), Found(None, moved))
