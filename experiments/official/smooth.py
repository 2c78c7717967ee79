"""smooth on npo(ratio=batch) and retain_nll against the WMDP trainer of its authors, given the same noise."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from expunge.methods.perturb.smooth import Smooth, noise
from expunge.seeding import derive
from official.bed import Bed, Difference, Found, difference
from official.taken import instance

REPOSITORY = "OPTML-Group/Unlearn-Smooth"
COMMIT = "fc655ba453c50c2503915669a2e1f3b66bbf94ec"
FILE = "WMDP/src/unlearn/base.py"


DRAWS, SIGMA = 3, 0.01


class Given(SimpleNamespace):
    """torch with another `randn_like`."""

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)


def compare(code: Path, seed: int) -> Iterator[Difference]:
    bed = Bed(seed)
    drawn = (part for draw in range(DRAWS) for part in noise(bed.scope, derive(seed, draw)))
    losses = instance(code / "WMDP/src/unlearn/GA.py", "NPO_FT_RS", infer_model=bed.reference_model, beta=0.1,
                      args=SimpleNamespace(n_gpu=1))
    found: list[torch.Tensor] = []
    trainer = instance(
        code / FILE, "RSTrainer", {"torch": Given(randn_like=lambda parameter: next(drawn))}, sam_rho=SIGMA, gamma=2.0,
        _prepare_inputs=lambda inputs: inputs, args=SimpleNamespace(gradient_accumulation_steps=1, device="cpu"),
        accelerator=SimpleNamespace(backward=lambda loss: loss.backward()),
        optimizer=SimpleNamespace(step=lambda: found.extend(p.grad.clone() for p in bed.model.parameters()),
                                  zero_grad=lambda: bed.model.zero_grad(set_to_none=True)))
    trainer._compute_forget_loss = losses._compute_forget_loss
    trainer._compute_retain_loss = losses._compute_retain_loss
    bed.model.zero_grad(set_to_none=True)
    sides = {side: (x["input_ids"], x["attention_mask"], x["labels"]) for side, x in bed.inputs.items()}
    trainer.training_step(bed.model, sides)
    moved = Smooth(sigma=SIGMA, draws=DRAWS).gradient(
        bed.subject, bed.scope, lambda tamper=None: bed.ours("npo(beta=0.1, ratio='batch')").gradient, step=0, total=1,
        seed=seed)
    kept = bed.ours("retain_nll(weight=2)").gradient
    yield difference("sigma 0.01, 3 draws, npo(ratio=batch) + retain_nll",
                     Found(None, [m + k for m, k in zip(moved, kept, strict=True)]), Found(None, found))
