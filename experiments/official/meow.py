"""meow against the trainer of its authors: the loss of inverted answers, once they are chosen."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from official.bed import Bed, Difference, difference
from official.taken import instance

REPOSITORY = "Carol-gutianle/MEOW"
COMMIT = "1ee8aef23a3e625685d44ca43398b4fc3f35212f"
FILE = "meow/trainer.py"


def compare(code: Path, seed: int) -> Iterator[Difference]:
    bed = Bed(seed, ("inverted", "retain"))
    trainer = instance(code / FILE, "ToFUTrainerForgetting", loss_type="meow")
    theirs = trainer.compute_loss(bed.model, (bed.triples["inverted"], bed.triples["retain"]))
    yield difference("mean over tokens", bed.ours("meow"), bed.of(theirs))
