"""npo against the trainer of its authors."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from official.bed import Bed, Difference, difference
from official.taken import instance, taken

REPOSITORY = "licong-lin/negative-preference-optimization"
COMMIT = "1207bbe9a1abf502bc2d7b43a0a467d9524b4036"
FILE = "TOFU/dataloader.py"


def compare(code: Path, seed: int) -> Iterator[Difference]:
    bed = Bed(seed)
    batch_loss = taken(code / "TOFU/data_module.py", "get_batch_loss")
    for beta in (0.1, 0.5):
        trainer = instance(code / FILE, "CustomTrainerForgetting", {"get_batch_loss": batch_loss}, loss_type="npo",
                           oracle_model=bed.reference_model, beta=beta, ref_policy="fine_tuned")
        theirs = trainer.compute_loss(bed.model, (bed.triples["forget"], bed.triples["retain"]))
        yield difference(f"beta {beta}", bed.ours(f"npo(beta={beta})"), bed.of(theirs))
