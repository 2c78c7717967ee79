"""Post-processors that give the votes of shards equal error rates in two groups, as linear programs (FairSISA).

Source: arXiv 2312.07420; the programs follow Hardt et al. 2016 (arXiv 1610.02413). Pure functions.

A table q_AV holds P(answer 1) for every group and every vector of votes; the vector of a row is the number whose bit k
is the vote of shard k.

Legend: A groups (2), Y labels (2), V vote vectors (2 ** S), S shards, N rows.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Literal

import numpy as np

from expunge.errors import DataError

Array = np.ndarray
How = Literal["aggregate_first", "correct_first", "ensemble"]


def counts_of(votes_NS: Array, label_N: Array, group_N: Array) -> Array:
    """How many rows have each group, label and vote vector: shape A Y V.

    Raises:
        DataError: a group has no row of one of the labels, so that its error rates are unknown.
    """
    votes_NS = np.asarray(votes_NS, dtype=int)
    shards = votes_NS.shape[1]
    counts_AYV = np.zeros((2, 2, 2 ** shards))
    np.add.at(counts_AYV, (group_N, label_N, votes_NS @ (1 << np.arange(shards))), 1)
    if not (counts_AYV.sum(-1) > 0).all():
        raise DataError("Fair answers need rows of both labels in both groups.",
                        "Without one of the four the error rates of a group are unknown.",
                        "Give more labelled rows, or a larger share of them to fit on (fit=...).")
    return counts_AYV


def majority_of(shards: int) -> Array:
    """The majority's answer for every vote vector; a tie is 0."""
    return np.array([2 * bin(v).count("1") > shards for v in range(2 ** shards)], dtype=int)


def program(counts_AYV: Array, cell_V: Array) -> Array:
    """The table of least error with equal rates of answer 1 in both groups, for label 0 and for label 1.

    Args:
        cell_V: the cell of every vote vector; vectors of one cell share their value. Every number from 0 up is used.
    """
    from scipy.optimize import linprog

    cells = int(cell_V.max()) + 1
    joined_AYC = np.zeros((2, 2, cells))
    for cell, counts_AY in zip(cell_V, np.moveaxis(counts_AYV, -1, 0), strict=True):
        joined_AYC[..., cell] += counts_AY
    cost_AC = (joined_AYC[:, 0] - joined_AYC[:, 1]) / joined_AYC.sum()
    rates_AYC = joined_AYC / joined_AYC.sum(-1, keepdims=True)
    equal = np.concatenate([rates_AYC[0], -rates_AYC[1]], axis=-1)  # one line for each label
    found = linprog(cost_AC.ravel(), A_eq=equal, b_eq=np.zeros(2), bounds=(0, 1), method="highs")
    if found.status != 0:  # answering alike everywhere is always allowed, so this is a failure of the solver
        raise DataError("No fair table was found.", str(found.message))
    q_AC: Array = np.clip(found.x.reshape(2, cells), 0, 1)
    return q_AC[:, cell_V]


def aggregate_first(counts_AYV: Array) -> Array:
    """Majority vote, then a program over (majority, group)."""
    return program(counts_AYV, majority_of(_shards(counts_AYV)))


def correct_first(counts_AYV: Array) -> Array:
    """A program over (vote, group) for every shard, then the majority of the corrected votes, drawn independently.

    Not fair in general: corrected votes are fair one by one, and their majority depends on how they hang together.
    """
    shards = _shards(counts_AYV)
    vectors = np.arange(2 ** shards)
    bits_SV = np.stack([vectors >> k & 1 for k in range(shards)])
    one_SAV = np.stack([program(counts_AYV, bits_V) for bits_V in bits_SV])
    q_AV = np.zeros_like(one_SAV[0])
    for drawn, wins in zip(product((0, 1), repeat=shards), majority_of(shards)[_numbers(shards)], strict=True):
        if wins:
            q_AV += np.prod([p if bit else 1 - p for bit, p in zip(drawn, one_SAV, strict=True)], axis=0)
    return q_AV


def ensemble(counts_AYV: Array, least: int = 0) -> Array:
    """A program over (all votes, group): the best fair answer that the votes allow.

    Args:
        least: a vote vector with fewer rows in one of the groups shares its value with the others that are so rare and
            have as many votes for 1; where these together are too few, with all rare ones of the same majority.
    """
    return program(counts_AYV, merged(counts_AYV, least))


def merged(counts_AYV: Array, least: int) -> Array:
    """The cell of every vote vector by the rule of `ensemble`."""
    shards = _shards(counts_AYV)
    size_V = counts_AYV.sum(1).min(0)
    ones_V = np.array([bin(v).count("1") for v in range(2 ** shards)])
    majority_V = majority_of(shards)
    names: list[tuple[str, int]] = []
    for v in range(2 ** shards):
        alike = counts_AYV[..., (ones_V == ones_V[v]) & (size_V < least)].sum((1, 2)).min(initial=np.inf)
        names.append(("vector", v) if size_V[v] >= least else
                     ("ones", int(ones_V[v])) if alike >= least else ("majority", int(majority_V[v])))
    numbers = {name: i for i, name in enumerate(dict.fromkeys(names))}
    return np.array([numbers[name] for name in names])


def majority(counts_AYV: Array) -> Array:
    """The table of plain majority vote."""
    return np.tile(majority_of(_shards(counts_AYV)).astype(float), (2, 1))


def figures(counts_AYV: Array, q_AV: Array) -> dict[str, float]:
    """Error, and the gaps between the groups in the rates of answer 1 for label 1 (true) and label 0 (false)."""
    wrong = (counts_AYV[:, 0] * q_AV + counts_AYV[:, 1] * (1 - q_AV)).sum() / counts_AYV.sum()
    rate_AY = (counts_AYV * q_AV[:, None]).sum(-1) / counts_AYV.sum(-1)
    false_gap, true_gap = np.abs(rate_AY[0] - rate_AY[1])
    return {"error": float(wrong), "true_rate_gap": float(true_gap), "false_rate_gap": float(false_gap)}


def _shards(counts_AYV: Array) -> int:
    return int(counts_AYV.shape[-1]).bit_length() - 1


def _numbers(shards: int) -> Array:
    """The vote vectors in the order of `itertools.product`."""
    return np.array([sum(bit << k for k, bit in enumerate(bits)) for bits in product((0, 1), repeat=shards)])


WAYS: dict[How, Callable[[Array], Array]] = {
    "aggregate_first": aggregate_first, "correct_first": correct_first, "ensemble": ensemble}

__all__ = ["WAYS", "How", "aggregate_first", "correct_first", "counts_of", "ensemble", "figures", "majority",
           "majority_of", "merged", "program"]
