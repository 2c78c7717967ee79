"""code_eraser against the authors' SSCU, on rows without padding whose every token but the first is an answer.

Their context holds prompts, and counts padding as tokens of loss 0.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import torch

from official.bed import Bed, Difference, difference
from official.taken import taken

REPOSITORY = "Zhaoyang-Chu/code-unlearning"
COMMIT = "da70d4c30b33103e564c2587a108179dd6f0c880"
FILE = "unlearning/model.py"


def compare(code: Path, seed: int) -> Iterator[Difference]:
    """The forget step, the same without its divergence, and the retain step over the number of positions that its
    divergence is summed over."""
    length = 9
    bed = Bed(seed, lengths=[(1, length)] * 4)
    step = taken(code / FILE, "SensitivitySelectiveCU.training_step")
    marks = {row.key: [(n + t) % 3 == 0 for t in range(length)]
             for n, row in enumerate(bed.batches["forget"].rows)}
    mask = torch.tensor([[False, *marks[row.key]] for row in bed.batches["forget"].rows])

    def theirs(side: str, index: int, gamma: float, divergence: float) -> torch.Tensor:
        ids = bed.inputs[side]["input_ids"]
        settings = SimpleNamespace(gradient_accumulation_steps=1, select_gamma=gamma, control_lambda=divergence,
                                   control_alpha=1.0)
        me = SimpleNamespace(hparams=settings, model=bed.model, control_model=bed.reference_model)
        batch = {"source_ids": ids, "source_mask": torch.ones_like(ids), "target_ids": ids, "secret_mask": mask}
        forward = Forward(me)
        loss: torch.Tensor = step(forward, batch, index)
        return loss

    for gamma, divergence in ((0.5, 0.1), (0.1, 0.0)):
        ours = bed.ours(f"code_eraser(context={gamma}, divergence={divergence})", role="forget", made=marks)
        yield difference(f"forget step, gamma {gamma}, lambda {divergence}", ours,
                         bed.of(theirs("forget", 0, gamma, divergence)))
    yield difference("retain step", bed.ours("retain_kl(weight=0.1)"),
                     bed.of(theirs("retain", 1, 0.5, 0.1) / length))


class Forward:
    """Their module: its attributes, and a call that returns the model's loss and logits."""

    def __init__(self, module: SimpleNamespace) -> None:
        self.__dict__.update(vars(module))

    def __call__(self, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        found = self.model(batch["source_ids"], attention_mask=batch["source_mask"], labels=batch["target_ids"])
        return found.loss, found.logits
