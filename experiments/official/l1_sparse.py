"""l1_sparse against the loop of its authors: one step at the start."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import torch

from official.bed import WHOLE, Bed, Difference, Found, Movable, Positions, difference
from official.taken import taken

REPOSITORY = "OPTML-Group/Unlearn-Sparse"
COMMIT = "80ba55d36d0871465c2d3e3896db26a98070e065"
FILE = "unlearn/FT.py"


class Meter:
    """What their loop notes."""

    avg = 0.0

    def update(self, value: float, count: int) -> None:
        self.avg = value


def compare(code: Path, seed: int) -> Iterator[Difference]:
    bed = Bed(seed, ("kept",), lengths=WHOLE)
    loop = taken(code / FILE, "FT_iter", utils=SimpleNamespace(
        AverageMeter=Meter, accuracy=lambda output, target: [torch.zeros(1)]))
    ids = bed.inputs["kept"]["input_ids"]
    optimizer = SimpleNamespace(zero_grad=lambda: bed.model.zero_grad(set_to_none=True), step=lambda: None)
    options = SimpleNamespace(imagenet_arch=False, warmup=0, unlearn_epochs=10, no_l1_epochs=2, alpha=1e-3,
                              print_freq=100)
    loop({"retain": [(Movable(ids), Movable(ids[:, 1:]))]}, Positions(bed.model), torch.nn.CrossEntropyLoss(),
         optimizer, 0, options, with_l1=True)
    theirs = [p.grad.clone() for p in bed.model.parameters()]
    yield difference("gamma 1e-3, whole rows", Found(None, bed.ours("l1_sparse(gamma=0.001)").gradient),
                     Found(None, theirs))
