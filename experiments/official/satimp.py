"""satimp against the trainer of its authors."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from official.bed import Bed, Difference, difference
from official.taken import instance

REPOSITORY = "tmlr-group/SatImp"
COMMIT = "51314c05abe393801fb8134b78ef402b0c95e4e2"
FILE = "dataloader/dataloader_sat.py"


def compare(code: Path, seed: int) -> Iterator[Difference]:
    bed = Bed(seed)
    for beta1, beta2 in ((5.0, 1.0), (5.0, 0.1)):
        trainer = instance(code / FILE, "CustomTrainerForgetting", loss_type="satimp", hyper_param=beta1,
                           beta_param=beta2)
        theirs = trainer.compute_loss(bed.model, (bed.triples["forget"], bed.triples["retain"]))
        ours = bed.ours(f"satimp(beta1={beta1}, beta2={beta2})")
        yield difference(f"beta1 {beta1}, beta2 {beta2}", ours, bed.of(theirs))
