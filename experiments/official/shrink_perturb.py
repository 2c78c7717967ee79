"""shrink_perturb against the code of its authors: the matrices, given the same noise. Theirs shrinks norms too."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import torch

from expunge.methods.edits.shrink_perturb import ShrinkPerturb, xavier_uniform
from expunge.records.task import Task
from expunge.seeding import derive
from official.bed import Bed, Difference, Found, difference
from official.taken import taken

REPOSITORY = "AddieFoote/distillation-robustify-unlearning"
COMMIT = "edbf11189155c6bae81f5942df928c6ec2c5ac34"
FILE = "src/tools/partial_distill_langarith.py"


def compare(code: Path, seed: int) -> Iterator[Difference]:
    for alpha, beta in ((0.6, 0.1), (0.25, 0.0)):
        ours, theirs = Bed(seed), Bed(seed)
        matrices = [name for name, p in ours.named.items() if p.dim() > 1]
        before = {name: ours.named[name].detach().clone() for name in matrices}
        noise = iter([xavier_uniform(ours.named[name].shape, torch.Generator().manual_seed(
            derive(seed, "shrink_perturb", name))) for name in matrices])
        given = SimpleNamespace(zeros_like=torch.zeros_like, empty_like=torch.empty_like, cuda=torch.cuda,
                                nn=SimpleNamespace(init=SimpleNamespace(xavier_uniform_=lambda _, n=noise: next(n))))
        taken(code / FILE, "do_corruption", torch=given)(theirs.model, alpha, beta)
        ShrinkPerturb(alpha=alpha, beta=beta).apply(ours.subject, Task(name="none", forget=()), seed)
        moved = [Found(None, [bed.named[name].detach() - before[name] for name in matrices]) for bed in (ours, theirs)]
        yield difference(f"change of the matrices, alpha {alpha}, beta {beta}", *moved)
