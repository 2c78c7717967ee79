"""Orders of slices, and the blocks that each stage of an order trains (S3T). Pure functions, no torch.

Source: arXiv 2406.16257. Slices, orders and stages are counted from 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import factorial

import numpy as np

Orders = tuple[tuple[int, ...], ...]
SHARPNESS = 100
"""Exponent of a slice's survival in the score of a prefix."""
FORBIDDEN, CROWDED = 1e9, 1e3


def rotations(slices: int, count: int) -> Orders:
    """`count` different orders of the slices: cyclic rotations first, then rotations of what follows the first slice.

    The first `slices` orders begin with different slices.
    """
    def order(number: int, items: tuple[int, ...]) -> tuple[int, ...]:
        if not items:
            return ()
        turn, first = divmod(number, len(items))
        return (items[first], *order(turn, items[first + 1:] + items[:first]))

    if not 1 <= count <= factorial(slices):
        raise ValueError(f"{slices} slices have {factorial(slices)} orders, not {count}")
    return tuple(order(number, tuple(range(slices))) for number in range(count))


def matched(deletion: Sequence[float], count: int) -> Orders:
    """`count` orders, at most one for each slice, that keep long prefixes where slices are hit unevenly.

    Position by position, orders are matched with slices that they do not have yet; slice s behind a prefix of n - 1
    slices scores n (1 - c)^100, where c is the deletion probability of the prefix and s together.

    Args:
        deletion: deletion probability of every slice.
    """
    from scipy.optimize import linear_sum_assignment

    slices = len(deletion)
    if not 1 <= count <= slices:
        raise ValueError(f"{slices} slices are matched with at most as many orders, not {count}")
    orders: list[tuple[int, ...]] = [()] * count
    for position in range(1, slices + 1):
        # A slice has a column for every order, so that two may take it where nothing else is left, at a price.
        cost = np.empty((count, slices * count))
        for row, prefix in enumerate(orders):
            spent = sum(deletion[s] for s in prefix)
            for s in range(slices):
                score = position * max(1 - spent - deletion[s], 0.0) ** SHARPNESS
                for copy in range(count):
                    cost[row, s * count + copy] = FORBIDDEN if s in prefix else CROWDED * copy - score
        _, columns = linear_sum_assignment(cost)
        orders = [(*prefix, int(column) // count) for prefix, column in zip(orders, columns, strict=True)]
    return tuple(orders)


def group_of(blocks: Sequence[str], groups: int, number: int) -> list[str]:
    """The blocks of group `number`: consecutive ones, of even numbers as far as possible; group 0 is the last blocks.

    Args:
        blocks: all blocks, in the order of the forward pass.
    """
    depth = len(blocks)
    return list(blocks[depth - depth * (number + 1) // groups: depth - depth * number // groups])


def expected_hits(shards: int, slices: int, orders: int) -> float:
    """Uniform hits of slices until no shard has an order left: m L H_n with n = m min(B, L) (coupon collector).

    Exact where the orders begin with different slices.
    """
    return shards * slices * sum(1 / i for i in range(1, shards * min(orders, slices) + 1))


__all__ = ["Orders", "expected_hits", "group_of", "matched", "rotations"]
