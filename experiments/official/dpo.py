"""dpo against the trainer that TOFU and NPO use, where a refusal is preferred."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from official.bed import Bed, Difference, difference
from official.taken import instance, taken

REPOSITORY = "licong-lin/negative-preference-optimization"
COMMIT = "1207bbe9a1abf502bc2d7b43a0a467d9524b4036"
FILE = "TOFU/dataloader.py"


def compare(code: Path, seed: int) -> Iterator[Difference]:
    bed = Bed(seed, ("forget", "refusal", "retain"))
    batch_loss = taken(code / "TOFU/data_module.py", "get_batch_loss")
    for beta in (0.1, 0.5):
        trainer = instance(code / FILE, "CustomTrainerForgetting", {"get_batch_loss": batch_loss}, loss_type="dpo",
                           oracle_model=bed.reference_model, beta=beta)
        theirs = trainer.compute_loss(bed.model, tuple(bed.triples[s] for s in ("refusal", "forget", "retain")))
        yield difference(f"beta {beta}", bed.ours(f"dpo(beta={beta})"), bed.of(theirs))
