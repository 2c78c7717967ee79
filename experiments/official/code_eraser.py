"""code_eraser against the authors' SSCU, on rows without padding whose every token but the first is an answer.

Their context holds prompts, and counts padding as tokens of loss 0.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import torch

from official.bed import Bed, Difference, difference
from official.taken import instance

REPOSITORY = "Zhaoyang-Chu/code-unlearning"
COMMIT = "da70d4c30b33103e564c2587a108179dd6f0c880"
FILE = "unlearning/model.py"
LENGTH = 9


def compare(code: Path, seed: int) -> Iterator[Difference]:
    """The forget step with and without divergence, and the retain step over the positions that it is summed over."""
    bed = Bed(seed, lengths=[(1, LENGTH)] * 4)
    rows = bed.batches["forget"].rows
    marks = {row.key: [(n + t) % 3 == 0 for t in range(LENGTH)] for n, row in enumerate(rows)}
    secret = torch.tensor([[False, *marks[row.key]] for row in rows])

    def theirs(side: str, index: int, gamma: float, divergence: float) -> torch.Tensor:
        ids = bed.inputs[side]["input_ids"]
        settings = SimpleNamespace(gradient_accumulation_steps=1, select_gamma=gamma, control_lambda=divergence,
                                   control_alpha=1.0)
        trainer = instance(code / FILE, "SensitivitySelectiveCU", hparams=settings, model=bed.model,
                           control_model=bed.reference_model)
        type(trainer).__call__ = lambda self, batch: (None, bed.model(batch["source_ids"]).logits)  # of their base
        loss: torch.Tensor = trainer.training_step({"source_ids": ids, "source_mask": torch.ones_like(ids),
                                                    "target_ids": ids, "secret_mask": secret}, index)
        return loss

    for gamma, divergence in ((0.5, 0.1), (0.1, 0.0)):
        ours = bed.ours(f"code_eraser(context={gamma}, divergence={divergence})", made=marks)
        yield difference(f"forget step, gamma {gamma}, lambda {divergence}", ours,
                         bed.of(theirs("forget", 0, gamma, divergence)))
    yield difference("retain step", bed.ours("retain_kl(weight=0.1)"),
                     bed.of(theirs("retain", 1, 0.5, 0.1) / LENGTH))
