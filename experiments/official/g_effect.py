"""What the comparisons with G-effect share: its trainer holds the losses of several methods."""

from __future__ import annotations

from pathlib import Path

from official.bed import Bed, Found
from official.taken import instance

REPOSITORY = "tmlr-group/G-effect"
COMMIT = "ef368eea3b2c6dba1e090b9ebb021ac9f047e0ae"
FILE = "dataloader.py"


def their_loss(code: Path, bed: Bed, kind: str, option: float) -> Found:
    """The loss of the kind that their settings name, with their `hyper_param`."""
    trainer = instance(code / FILE, "CustomTrainerForgetting", loss_type=kind, hyper_param=option,
                       oracle_model=bed.reference_model)
    return bed.of(trainer.compute_loss(bed.model, (bed.triples["forget"], bed.triples["retain"])))
