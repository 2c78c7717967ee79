"""sam on ga and retain_nll against the trainer of its authors."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

from expunge.methods.perturb.sam import SAM
from official.bed import Bed, Difference, Found, difference
from official.taken import instance

REPOSITORY = "OPTML-Group/Unlearn-Smooth"
COMMIT = "fc655ba453c50c2503915669a2e1f3b66bbf94ec"
FILE = "MUSE/baselines/baselines/sam_iterative.py"


def compare(code: Path, seed: int) -> Iterator[Difference]:
    bed = Bed(seed)
    for rho in (0.01, 0.1):
        trainer = instance(code / FILE, "SAMIterativeUnlearner", loss_type="ga_gdr", sam_rho=rho, beta=0.1, coeff=2.0,
                           npo_coeff=1.0, gamma=0.0, _prepare_inputs=lambda inputs: inputs,
                           accelerator=SimpleNamespace(backward=lambda loss: loss.backward()),
                           args=SimpleNamespace(gradient_accumulation_steps=1, device="cpu"))
        bed.model.zero_grad(set_to_none=True)
        trainer.training_step(bed.model, (bed.inputs["forget"], bed.inputs["retain"]))
        theirs = Found(None, [p.grad for p in bed.model.parameters()])
        moved = SAM(rho=rho).gradient(bed.subject, bed.scope, lambda tamper=None: bed.ours("ga").gradient, step=0,
                                      total=1, seed=0)
        kept = bed.ours("retain_nll(weight=2)").gradient
        ours = Found(None, [m + k for m, k in zip(moved, kept, strict=True)])
        yield difference(f"rho {rho}, ga + retain_nll(weight=2)", ours, theirs)
