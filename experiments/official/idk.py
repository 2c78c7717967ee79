"""idk and retain_nll against TOFU's trainer as NPO has it, which takes one mean over the tokens of both."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from official.bed import Bed, Difference, difference
from official.taken import instance

REPOSITORY = "licong-lin/negative-preference-optimization"
COMMIT = "1207bbe9a1abf502bc2d7b43a0a467d9524b4036"
FILE = "TOFU/dataloader.py"


def compare(code: Path, seed: int) -> Iterator[Difference]:
    bed = Bed(seed, ("refusal", "retain"))
    trainer = instance(code / FILE, "CustomTrainerForgetting", loss_type="idk")
    theirs = trainer.compute_loss(bed.model, (bed.triples["refusal"], bed.triples["retain"]))
    ours = bed.ours("idk(weight=0.5) + retain_nll(weight=0.5)")
    yield difference("half of each, as many tokens on both sides", ours, bed.of(theirs))
