"""rmu and its activation_match against open-unlearning, which averages rows and not tokens."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from expunge.methods.objectives.rmu import control_vector
from official.bed import EQUAL, Bed, Difference, difference
from official.taken import instance

REPOSITORY = "locuslab/open-unlearning"
COMMIT = "d3d7cf9e6b3c125d16687d4232680d8d83548f1a"
FILE = "src/trainer/unlearn/rmu.py"


def compare(code: Path, seed: int) -> Iterator[Difference]:
    for mask, rows in (("answer", "answers of equal length"), ("all", "whole rows of equal length")):
        bed = Bed(seed, lengths=EQUAL)
        inputs = bed.inputs
        if mask == "all":
            for side in inputs.values():
                side["labels"] = side["input_ids"]
        vector = control_vector(bed.model.config.hidden_size, 6.5, 0).double()
        trainer = instance(code / FILE, "RMU", control_vec=vector, gamma=1.0, alpha=2.0, retain_loss_type="EMBED_DIFF",
                           model_module=bed.model.model.layers[1], ref_module=bed.reference_model.model.layers[1],
                           ref_model=bed.reference_model)
        ours = bed.ours(f"rmu(layer=1, coefficient=6.5, mask='{mask}') + "
                        f"activation_match(layer=1, weight=2, mask='{mask}')")
        yield difference(f"with activation_match, {rows}", ours, bed.of(trainer.compute_loss(bed.model, inputs)))
