"""pdu and its margin against the authors' contribution to open-unlearning.

Their margin is at the answer's own positions, ours at those that predict it; here theirs is told of the latter."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from expunge.methods.combine.pdu import PDU
from official.bed import Bed, Difference, Found, difference
from official.taken import instance

REPOSITORY = "locuslab/open-unlearning"
COMMIT = "d3d7cf9e6b3c125d16687d4232680d8d83548f1a"
FILE = "src/trainer/unlearn/pdu.py"


STEPS = 3


def compare(code: Path, seed: int) -> Iterator[Difference]:
    bed = Bed(seed)
    trainer = instance(code / FILE, "PDU", preferences=[1.0, 2.0], retain_loss_eps=0.3, primal_dual=True,
                       dual_step_size=0.5, dual_update_upon="step", can_update=True, loss_names=["forget", "retain"],
                       log=lambda figures: None,
                       compute_retain_loss=lambda model, retain_inputs: model(**retain_inputs).loss)
    combine = PDU(rho=2.0, epsilon=0.3, step=0.5, warmup=0)
    for number in range(STEPS):
        bed.batches = {side: bed.rows(f"{side}{number}") for side in ("forget", "retain")}
        inputs = bed.inputs
        labels = inputs["forget"]["labels"]
        inputs["forget"]["labels"] = labels.roll(-1, dims=1)
        theirs = bed.of(trainer.compute_loss(bed.model, inputs))
        forget, retain = (bed.ours("margin + retain_nll", role) for role in ("forget", "retain"))
        combine.observe({"forget": forget.loss, "retain": retain.loss}, epoch=0)
        ours = Found(float(combine.state()["rho"]), combine(forget.gradient, retain.gradient))
        yield difference("update, and multiplier as the loss, over 3 steps", ours,
                         Found(float(trainer.preferences[1]), theirs.gradient))
