"""Shared by metrics of right and wrong answers: tables of statements, and linear probes that tell the two apart.

Legend: n statements, L layers, D features.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from expunge.metrics.base import NotAvailable
from expunge.metrics.layers import Array, cross_chosen, entity_folds, logits_of, out_of_fold_logits
from expunge.records.observation import Row


@dataclass(frozen=True)
class StatementTable:
    """All statements of questions that have right and wrong ones.

    Args:
        question_n: id of the question of each.
    """

    question_n: list[str]
    entities: list[str]
    right_n: NDArray[np.intp]
    logp_n: Array
    states_nLD: Array

    @classmethod
    def of(cls, rows: Mapping[str, Row], what: str) -> StatementTable:
        """Raises NotAvailable where no question has both, or states are no numbers."""
        whole = [row for row in rows.values() if len(set(row["correct"])) == 2]
        if not whole:
            raise NotAvailable(f"no {what} question has wrong answers beside the right one")
        question_n = [str(row["id"]) for row in whole for _ in row["correct"]]
        entities = [str(row["entity"] or row["id"]) for row in whole for _ in row["correct"]]
        right_n = np.asarray([int(right) for row in whole for right in row["correct"]], dtype=np.intp)
        logp_n = np.asarray([value for row in whole for value in row["logp"]], dtype=float)
        states_nLD = np.asarray([states for row in whole for states in row["states"]], dtype=float)
        if np.isnan(logp_n).any() or np.isnan(states_nLD).any():
            raise NotAvailable("statements hold values that are not numbers (NaN): the model is broken there")
        return cls(question_n, entities, right_n, logp_n, states_nLD)

    def shares(self, score_n: Array) -> dict[str, float]:
        """Per question the share of pairs in which the right answer scores strictly higher (K_q); ties count 0."""
        found: dict[str, float] = {}
        question_n = np.asarray(self.question_n)
        for question in dict.fromkeys(self.question_n):
            mine = question_n == question
            right, wrong = score_n[mine & (self.right_n == 1)], score_n[mine & (self.right_n == 0)]
            found[question] = float((right[:, None] > wrong[None]).mean())
        return found


def probed(train: StatementTable, other: StatementTable) -> Array:
    """Log-odds of being right, of each of the other statements, from a linear probe on `train`.

    The layer is the one whose probe tells statements of entities apart that it was not fitted on. Shape n of `other`.

    Raises:
        NotAvailable: `train` is about a single entity, or the two were observed at different layers.
    """
    if train.states_nLD.shape[1:] != other.states_nLD.shape[1:]:
        raise NotAvailable("the statements were observed at different layers or widths")
    layer = int(_held_out_shares(train).mean(0).argmax())
    return logits_of(train.states_nLD[:, layer], train.right_n, other.states_nLD[:, layer])


def held_out_shares(asked: StatementTable) -> dict[str, float]:
    """As `shares`, of probes on the same table: fitted without the question's entity, at the layer that is best for the
    other half of the entities.

    Raises:
        NotAvailable: the table is about a single entity.
    """
    entity_of = dict(zip(asked.question_n, asked.entities, strict=True))
    chosen_q = cross_chosen(_held_out_shares(asked), list(entity_of.values()))
    return dict(zip(entity_of, chosen_q.tolist(), strict=True))


def _held_out_shares(asked: StatementTable) -> Array:
    """Share of every question by a probe of each layer that was fitted without its entity; questions x layers."""
    fold_n = entity_folds(asked.entities, asked.right_n, 5)
    return np.stack([list(asked.shares(out_of_fold_logits(states_nD, asked.right_n, fold_n)).values())
                     for states_nD in asked.states_nLD.swapaxes(0, 1)], 1)
