"""salun against the script of its authors: the mask of half of the weights."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace

import torch

from expunge.methods._lib.importance import summed_gradient
from expunge.methods.scopes.salun import saliency_masks
from official.bed import WHOLE, Bed, Difference, Found, Movable, Positions, difference
from official.taken import taken

REPOSITORY = "OPTML-Group/Unlearn-Saliency"
COMMIT = "a6e89fd17ff737c24c6aa16c9574469a234ffd91"
FILE = "Classification/generate_mask.py"


def compare(code: Path, seed: int) -> Iterator[Difference]:
    bed = Bed(seed, lengths=WHOLE)
    ids = bed.inputs["forget"]["input_ids"]
    loader = [(Movable(ids[at: at + 2]), Movable(ids[at: at + 2, 1:])) for at in (0, 2)]
    with TemporaryDirectory() as folder:
        options = SimpleNamespace(unlearn_lr=0.1, momentum=0.9, weight_decay=0.0, save_dir=folder)
        write = taken(code / FILE, "save_gradient_ratio")
        write({"forget": loader}, Positions(bed.model), torch.nn.CrossEntropyLoss(), options)
        theirs = torch.load(Path(folder) / "with_0.5.pt")
    masks = saliency_masks(summed_gradient(bed.subject, list(bed.batches["forget"].rows)), 0.5)
    ours = [masks[name].double() for name in bed.named]
    yield difference("mask at density 0.5, batches of equal size", Found(None, ours),
                     Found(None, [theirs[f"model.{name}"] for name in bed.named]))
