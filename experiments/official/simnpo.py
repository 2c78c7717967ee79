"""simnpo with its retain term against the trainer of its authors."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from official.bed import Bed, Difference, difference
from official.taken import instance, taken

REPOSITORY = "OPTML-Group/Unlearn-Simple"
COMMIT = "f1a355d3cb16cdaa2dfbda163a2e954c67886a4c"
FILE = "TOFU/dataloader.py"


def compare(code: Path, seed: int) -> Iterator[Difference]:
    bed = Bed(seed)
    batch_loss = taken(code / "TOFU/data_module.py", "get_batch_loss")
    for beta, delta in ((4.5, 0.0), (2.5, 0.5)):
        trainer = instance(code / FILE, "CustomTrainerForgetting", {"get_batch_loss": batch_loss}, beta=beta,
                           loss_type="simnpo_grad_diff", gamma=delta, npo_coeff=0.125, grad_diff_coeff=1.0)
        theirs = trainer.compute_loss(bed.model, (bed.triples["forget"], bed.triples["retain"]))
        ours = bed.ours(f"simnpo(beta={beta}, delta={delta}, weight=0.125) + retain_nll")
        yield difference(f"beta {beta}, delta {delta}, with retain_nll", ours, bed.of(theirs))
