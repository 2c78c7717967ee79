"""Directions along which a linear probe tells two groups of texts apart, block by block.

Source: arXiv 2605.01699 and its notebooks. Legend: n texts, L blocks, D hidden size, B rows, T padded length.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from expunge.data.text_encoder import TokenBatch
from expunge.models.language import CausalLM
from expunge.models.sites import Site
from expunge.records.task import Example

PENALTY, ROUNDS = 1.0, 10_000
"""C and the iteration limit of the logistic regression, as published."""


def last_states(values: Sequence[Tensor], batch: TokenBatch) -> Tensor:
    """States at the last token of each row, shape B L D, of values of shape B T D each."""
    at_B = torch.tensor([len(row.ids) - 1 for row in batch.rows], device=batch.device)
    rows_B = torch.arange(len(at_B), device=batch.device)
    return torch.stack([value_BTD[rows_B, at_B] for value_BTD in values], 1)


def states_of(subject: CausalLM, examples: Sequence[Example], blocks: Sequence[int]) -> Tensor:
    """The same of examples, without gradient, float64 on the CPU; shape n L D."""
    rows = [subject.encoder.encode(example) for example in examples]
    found = torch.zeros(len(rows), len(blocks), subject.width, dtype=torch.float64)
    with subject.evaluating():
        for part in subject.encoder.batches(rows):
            batch = subject.collate([rows[i] for i in part]).to(subject.device)
            found[part] = last_states(subject.at(batch, [Site(b) for b in blocks]), batch).double().cpu()
    return found


def direction(first_nD: Tensor, second_nD: Tensor) -> Tensor:
    """Unit normal, in the space of the states, of a logistic regression on standardised states; shape D, float64."""
    from sklearn.linear_model import LogisticRegression
    from threadpoolctl import threadpool_limits

    states_nD = torch.cat([first_nD, second_nD]).double()
    spread_D = states_nD.std(0, correction=0)
    spread_D = torch.where(spread_D > 1e-9 * (1 + states_nD.abs().mean(0)), spread_D, 1.0)
    label_n = np.repeat([1, 0], [len(first_nD), len(second_nD)])
    model: Any = LogisticRegression(C=PENALTY, max_iter=ROUNDS)
    with threadpool_limits(1):
        model.fit(((states_nD - states_nD.mean(0)) / spread_D).numpy(), label_n)
    normal_D = torch.from_numpy(model.coef_[0].astype(float)) / spread_D
    return normal_D / (normal_D.norm() + 1e-12)


def directions(subject: CausalLM, first: Sequence[Example], second: Sequence[Example],
               blocks: Sequence[int]) -> Tensor:
    """One direction per block, towards `first`; shape L D, float64."""
    one, two = (states_of(subject, examples, blocks) for examples in (first, second))
    return torch.stack([direction(one[:, i], two[:, i]) for i in range(len(blocks))])
