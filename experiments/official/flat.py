"""flat against the trainer of its authors, which averages probabilities over the batch before the divergence.

Left out are reverse_kl, hellinger and neyman, whose signs their code inverts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from official.bed import Bed, Difference, difference
from official.taken import instance

REPOSITORY = "UCSC-REAL/FLAT"
COMMIT = "bf2ef07576de14b2493ceeda8f59e54e54926ae4"
FILE = "dataloader.py"


NAMES = {"kl": "KL", "jeffreys": "Jeffrey", "pearson": "Pearson", "js": "Jenson-Shannon", "tv": "Total-Variation"}


def compare(code: Path, seed: int) -> Iterator[Difference]:
    bed = Bed(seed, ("forget", "refusal"), lengths=[(1, 8)])
    for ours, theirs in NAMES.items():
        trainer = instance(code / FILE, "CustomTrainerForgetting", loss_type="cl", cl_div=theirs)
        loss = trainer.compute_loss(bed.model, (bed.triples["forget"], bed.triples["refusal"]))
        yield difference(f"{ours}, one whole row", bed.ours(f"flat(divergence='{ours}')"), bed.of(loss))
