"""tnpo against the trainer of its authors."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from official.bed import Bed, Difference, Found, difference
from official.taken import instance

REPOSITORY = "tmlr-group/G-effect"
COMMIT = "ef368eea3b2c6dba1e090b9ebb021ac9f047e0ae"
FILE = "dataloader.py"


def compare(code: Path, seed: int) -> Iterator[Difference]:
    bed = Bed(seed)

    def loss(kind: str, option: float) -> Found:
        trainer = instance(code / FILE, "CustomTrainerForgetting", loss_type=kind, hyper_param=option,
                           oracle_model=bed.reference_model)
        return bed.of(trainer.compute_loss(bed.model, (bed.triples["forget"], bed.triples["retain"])))

    for beta in (0.5, 4.0):
        yield difference(f"beta {beta}, epsilon 1e-5", bed.ours(f"tnpo(beta={beta}, epsilon=1e-5)"), loss("tnpo", beta))
