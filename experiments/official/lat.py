"""lat against the code of its authors: the loss that lowers an answer, and the ball of the perturbation."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch

from expunge.methods._lib.latent import away, project
from official.bed import Bed, Difference, Found, difference
from official.taken import taken

REPOSITORY = "aengusl/latent-adversarial-training"
COMMIT = "53ac7521822207d353831bff26630ff372c86087"
FILE = "latent_at/utils.py"


def compare(code: Path, seed: int) -> Iterator[Difference]:
    bed = Bed(seed)
    answers = bed.step().answers("forget")
    theirs = taken(code / FILE, "log_1_minus_p_loss")(answers.logits_NV, answers.batch.target_N, threshold=-5.0)
    found = torch.autograd.grad(theirs, answers.logits_NV, retain_graph=True)
    ours = away(answers).mean()
    yield difference("lowered answers, gradient by logits",
                     Found(float(ours.detach()), torch.autograd.grad(ours, answers.logits_NV)),
                     Found(float(theirs.detach()), found))
    delta_BTD = torch.randn(3, 5, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    adversary = taken(code / "latent_at/laa/attacks.py", "GDAdversary")(
        8, 1.5, torch.ones(3, 5, dtype=torch.bool), dtype=torch.float64)
    adversary.attack.data.copy_(delta_BTD)
    adversary.clip_attack()
    project(delta_BTD, 1.5, "token")
    yield difference("perturbation within its ball", Found(None, [delta_BTD]), Found(None, [adversary.attack]))
