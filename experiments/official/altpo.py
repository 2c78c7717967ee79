"""altpo with its retain term against the trainer of its authors."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

from official.bed import Bed, Difference, difference
from official.taken import instance, taken

REPOSITORY = "molereddy/Alternate-Preference-Optimization"
COMMIT = "c9b78bd8bc10ae1d0bb6a117b19f92b3ebf5ff67"
FILE = "dataloader.py"


def compare(code: Path, seed: int) -> Iterator[Difference]:
    bed = Bed(seed, ("forget", "alternate", "retain"))
    batch_loss = taken(code / "utils.py", "get_batch_loss")
    for beta in (0.05, 0.1):
        trainer = instance(code / FILE, "CustomTrainerForgetting", {"get_batch_loss": batch_loss}, loss_type="dpo",
                           oracle_model=bed.reference_model, beta=beta, retain_wt=2.0, retain_type="NLL",
                           args=SimpleNamespace(device="cpu"))
        theirs = trainer.compute_loss(bed.model, tuple(bed.triples[s] for s in ("alternate", "forget", "retain")))
        yield difference(f"beta {beta}, retain weight 2", bed.ours(f"altpo(beta={beta}) + retain_nll(weight=2)"),
                         bed.of(theirs))
