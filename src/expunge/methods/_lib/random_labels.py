"""Random labels: every answer token is taught as a token drawn anew at each step."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from expunge.data.encoder import Batch
from expunge.methods._lib.weighted_likelihood import token_mean
from expunge.methods.base import Objective, WeightedSpec
from expunge.models.head import token_logp
from expunge.plugin import Card
from expunge.seeding import derive
from expunge.training.step import Step, Term


def drawn(batch: Batch, outcomes: int, seed: int, step: int) -> Tensor:
    """Uniform tokens for the supervised positions of each row, by seed, step and the row's id; shape N."""
    parts = [torch.randint(outcomes, (row.supervised,),
                           generator=torch.Generator().manual_seed(derive(seed, "random label", step, row.id)))
             for row in batch.rows]
    return torch.cat(parts).to(batch.device)


class RandomLabels(Objective):
    """Cross-entropy with uniform random tokens; a part of other methods, not a plug-in of its own."""

    class Spec(WeightedSpec):
        seed: int = Field(0, description="Seed of the tokens.")

    card = Card(name="random_labels", kind="objective", summary="cross-entropy with random tokens")
    reads = ("forget",)
    _step = 0

    def begin(self, step: int, total: int) -> None:
        self._step = step

    def terms(self, step: Step) -> dict[str, Term]:
        answers = step.answers("forget")
        labels_N = drawn(answers.batch, step.subject.outcomes, self.spec.seed, self._step)
        return {"random_labels": token_mean(-token_logp(answers.source, labels_N), answers, "forget")}
