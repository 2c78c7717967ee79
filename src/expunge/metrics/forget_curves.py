"""How a score changes as more is to be forgotten: MUSE's scalability and sustainability (arXiv 2407.06460).

MUSE draws curves: utility (`retain.knowmem(group=knowmem)`) over forget sets that grow, each unlearned from the same
model (tasks `muse:news(requests=scal_1)` to `scal_4`), and over requests, each unlearned from the result of the one
before (`sust_1` to `sust_4`). These are the figures that such a curve is read for.
"""

from __future__ import annotations

from collections.abc import Sequence


def kept(values: Sequence[float], start: float) -> list[float]:
    """Each value as a share of that of the model before: 1 where nothing is lost.

    Raises:
        ValueError: for a start of 0.
    """
    if start == 0:
        raise ValueError("the score before is 0, so nothing can be kept of it")
    return [value / start for value in values]


def slope(sizes: Sequence[float], values: Sequence[float]) -> float:
    """Change of the score per unit of size, by least squares: sum (s - mean s)(v - mean v) / sum (s - mean s)^2.

    Args:
        sizes: of the forget sets, such as tokens in millions, or the numbers of the requests.
        values: the score after each.

    Raises:
        ValueError: fewer than two sizes that differ, or not as many values.
    """
    if len(sizes) != len(values) or len(set(sizes)) < 2:
        raise ValueError(f"{len(set(sizes))} sizes and {len(values)} values make no curve")
    size, value = sum(sizes) / len(sizes), sum(values) / len(values)
    return sum((s - size) * (v - value) for s, v in zip(sizes, values, strict=True)) / sum(
        (s - size) ** 2 for s in sizes)


def falls_throughout(values: Sequence[float], start: float) -> bool:
    """Whether each value is below the one before it, and the first below the start."""
    return all(later < earlier for earlier, later in zip([start, *values], values, strict=False))
