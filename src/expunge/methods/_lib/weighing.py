"""A sampler that also weighs forget rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from expunge.methods.base import Sampler
from expunge.methods.run_context import RunContext
from expunge.models.subject import AnySubject
from expunge.records.task import Task
from expunge.training.step import Step, Term, WeightedTerm


class WeighingSampler(Sampler):
    """What `prepare` computes from the model before the first step weighs the forget terms, row by row."""

    made: dict[str, Any]
    """The result of `prepare`; set before the first step, read from disk when a run is resumed."""

    def prepare(self, subject: AnySubject, task: Task, run: RunContext) -> dict[str, Any]:
        """Plain data (JSON) from the model as it starts, which must end unchanged."""
        raise NotImplementedError

    def factors(self) -> Mapping[str, float]:
        """Id of a forget row -> factor of its terms; the mean over all is 1, and other rows count 1."""
        raise NotImplementedError


def weighed(factors: Mapping[str, float], step: Step, terms: list[WeightedTerm]) -> list[WeightedTerm]:
    """Forget terms times the factors of the rows of their side, which have the ids of the forget rows they stand for.

    Means are still taken over all rows, so that the learning rate does not change from batch to batch.
    """
    def times(term: Term) -> Term:
        weights_B = torch.tensor([factors.get(row.id, 1.0) for row in step.batches[term.side].rows])
        return replace(term, sum_B=term.sum_B * weights_B.to(term.sum_B))

    return [t if t.role == "retain" else replace(t, term=times(t.term)) for t in terms]
