"""What happens to a model between and after deletions: a table of final scores hides what was worse on the way.

Pure functions of curves. A curve holds one value for each time that the model was asked; a deletion is "done" at the
index of the first value after it. Sets that are still to be deleted, or are being deleted, never count.

Sources: min-ACC, WC-ACC and windowed forgetting are of De Lange et al., Continual evaluation for lifelong learning
(arXiv 2205.13452), said here of what is kept and, with the sign turned, of what was deleted. Sustainability is the
curve of MUSE (arXiv 2407.06460). F.D. and R.U. of FIT are in `request_stream.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def min_acc(curves: Sequence[Sequence[float]], done: Sequence[int]) -> float:
    """min-ACC: mean over sets of the worst accuracy after the time at which each was learned.

    Args:
        curves: of each set, its accuracy each time.
        done: of each set, the index of the first value after it was learned; the minimum is over later ones.

    Raises:
        ValueError: no set has a later value.
    """
    worst = [min(curve[at + 1:]) for curve, at in zip(curves, done, strict=True) if len(curve) > at + 1]
    if not worst:
        raise ValueError("no set was asked again after it was learned")
    return sum(worst) / len(worst)


def wc_acc(now: float, worst: float, count: int) -> float:
    """WC-ACC after `count` sets: A(E_k) / k + (1 - 1 / k) * min-ACC, never above the average accuracy."""
    if count < 1:
        raise ValueError("there is no set")
    return now / count + (1 - 1 / count) * worst


def windowed_fall(curve: Sequence[float], window: int) -> float:
    """Largest fall within `window` values that follow each other: max of A_a - A_b for b after a; at least 0."""
    return _largest(curve, window, 1.0)


def windowed_rebound(curve: Sequence[float], window: int) -> float:
    """The same upwards, max of F_b - F_a for b after a: how much of what was deleted came back."""
    return _largest(curve, window, -1.0)


def _largest(curve: Sequence[float], window: int, sign: float) -> float:
    if window < 2:
        raise ValueError("a window has at least two values")
    return max([0.0, *(sign * (curve[a] - curve[b]) for a in range(len(curve))
                       for b in range(a + 1, min(a + window, len(curve))))])


def stability_gap(curve: Sequence[float]) -> float:
    """How far below both its start and its end a curve once was: what a look at the end does not show; at least 0."""
    return max(0.0, min(curve[0], curve[-1]) - min(curve)) if curve else 0.0


def rebounds(curve: Sequence[float], done: int, level: float = 0.0) -> list[float]:
    """How far a deleted set is above where its deletion left it, at each later time.

    Args:
        curve: what the model knows of the set each time, such as the mean probability of its answers.
        done: index of the first value after its deletion.
        level: what a model says that never saw the set. A set that was pushed below it and returns to it tells nothing,
            so only what is above both counts.
    """
    return [value - max(curve[done], level) for value in curve[done + 1:]]


def worst_rebound(curves: Mapping[str, Sequence[float]], done: Mapping[str, int],
                  levels: Mapping[str, float]) -> tuple[str, float] | None:
    """The set that came back most, and by how much; None while none was asked again."""
    found = [(max(later), name) for name, curve in curves.items() if name in done
             and (later := rebounds(curve, done[name], levels.get(name, 0.0)))]
    return (max(found)[1], max(found)[0]) if found else None


def sustainability(curve: Sequence[float]) -> list[float]:
    """Utility after each request as a share of that before the first; MUSE plots it over requests."""
    if not curve or curve[0] == 0:
        raise ValueError("there is no utility to compare with")
    return [value / curve[0] for value in curve]


def loss_per_request(curve: Sequence[float]) -> float:
    """Utility lost by a request on average, as a share of the first: minus the slope of the least-squares line."""
    shares = sustainability(curve)
    n = len(shares)
    if n < 2:
        return 0.0
    middle, mean = (n - 1) / 2, sum(shares) / n
    return -sum((i - middle) * (y - mean) for i, y in enumerate(shares)) / sum((i - middle) ** 2 for i in range(n))
