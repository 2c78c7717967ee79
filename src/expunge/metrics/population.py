"""Scores of rows over many models: U-LiRA, RULI, population attack, KLoM, and an estimate of epsilon.

Pure functions of margins, phi = ln(p / (1 - p)), of many models and points; larger = known better. Compare every
number with the same number for two sets of retrained models: the floor.

Legend: S models, P points, m models per sample, K pairs of one member and one non-member.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import logsumexp

from expunge.metrics.statistics import auc, bootstrap

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
CLIP = 100.0
"""Margins are clipped to +-CLIP (KLoM); it also keeps the margin of a probability of exactly 0 or 1 finite."""
TINY = 1e-45
"""Smallest 1 - p inside the logarithm; it has no effect after clipping to `CLIP`."""
LEAST_VARIANCE = 1e-6
FEW = 16
"""With fewer models on a side all points share one variance (as LiRA recommends for few shadow models)."""
LogDensity = Callable[[Floats, Floats, float], Floats]
"""(where, values of a side, variance) -> log density there."""
RATES = (0.001, 0.01, 0.05)
WORST = 0.05


def margin(mean_logp: ArrayLike) -> Floats:
    """ln(p / (1 - p)) of p = exp(mean log p per token), numerically stable at both ends, clipped to +-100."""
    logp = np.minimum(np.asarray(mean_logp, float), 0.0)
    return np.asarray(np.clip(logp - np.log(np.maximum(-np.expm1(logp), TINY)), -CLIP, CLIP), dtype=float)


@dataclass(frozen=True)
class Inference:
    """How well an attack separates models trained on a row from models that were not. Ideal: 0.5, the floor."""

    accuracy: float
    """Mean over points of (TPR + TNR) / 2 at the attack's own threshold."""
    interval: tuple[float, float]
    """95 %, groups of points resampled; the models are fixed."""
    auc: float
    tpr: Mapping[float, float]
    """FPR -> TPR, scores of all points together."""
    worst: float
    """Mean accuracy of the 5 % most exposed points. Selected after the fact, so chance alone puts it above 0.5."""
    per_point: Floats
    pairs: int
    """Smallest number of tests per point."""

    def plain(self) -> dict[str, object]:
        """As JSON, without values per point."""
        return {"accuracy": self.accuracy, "interval": list(self.interval), "auc": self.auc,
                "tpr": {f"{k:g}": v for k, v in self.tpr.items()}, "worst": self.worst,
                "points": len(self.per_point), "pairs": self.pairs}


def ulira(phi_SP: ArrayLike, member_SP: ArrayLike, nonmember_SP: ArrayLike, *, shared: bool | None = None,
          groups: Sequence[Hashable] | None = None, resamples: int = 1000, seed: int = 0) -> Inference:
    """Per point the log-ratio of two Gaussians: models that trained on it (then unlearned) and models that did not.

    One model of *each* side is held out, the Gaussians are fitted to the rest, and both held-out models are tested.
    Both sides lose one model, so equal distributions give 0.5 whatever the counts of the two sides.

    Args:
        member_SP, nonmember_SP: masks of the entries of U(x) and R(x); entries in neither are not read.
        shared: one variance per side for all points; None = when a side has fewer than `FEW` models. The shared
            variance excludes the point's own models, if there are other points.
        groups: points that are correlated (rows of one entity) and resampled together.

    Raises:
        ValueError: a point has fewer than three models on a side (two with a shared variance).
    """
    return _likelihood_ratio(_log_normal, phi_SP, member_SP, nonmember_SP, shared, groups, resamples, seed)


def ruli(phi_SP: ArrayLike, member_SP: ArrayLike, nonmember_SP: ArrayLike, *, shared: bool | None = None,
         groups: Sequence[Hashable] | None = None, resamples: int = 1000, seed: int = 0) -> Inference:
    """Per point the likelihood ratio of two kernel density estimates: U-LiRA without its assumption of Gaussians.

    RULI, Naderloui et al. 2025 (arXiv 2506.13009, USENIX Security): L = p_U(x) / (p_U(x) + p_O(x)), a row counts as
    unlearned above 1/2, and p_U and p_O are Gaussian kernel estimates with Scott's bandwidth, n^(-1/5) standard
    deviations. It is asked twice. *Privacy*: both sides are margins of unlearned models, of rows that they unlearned
    and of rows that they never met. *Efficacy*: the second side are margins of models that never met the row and
    unlearned nothing; so it also sees what unlearning does to a model as a whole.

    Deviations: ln(p_U / p_O) stands for L, which orders and decides alike and does not underflow; one model of each
    side is left out and tested, as in `ulira`, in place of a target model beside the shadows; with few models the
    standard deviation is shared as in `ulira` (the paper takes each row's own, of some ten values); the statistic is
    `margin` of the whole answer (the authors' code takes the loss of its last seven tokens). Arguments are those of
    `ulira`.

    Raises:
        ValueError: a point has fewer than three models on a side (two with a shared variance).
    """
    return _likelihood_ratio(_log_kernel, phi_SP, member_SP, nonmember_SP, shared, groups, resamples, seed)


def population(phi_SP: ArrayLike, member_SP: ArrayLike, nonmember_SP: ArrayLike, *,
               groups: Sequence[Hashable] | None = None, resamples: int = 1000, seed: int = 0) -> Inference:
    """Population attack: one threshold on phi for all points, in the direction that separates better.

    A lower bound: rows that are told apart in different directions, or at different levels, cancel for it. Finding
    nothing with it says nothing of a single row.

    The threshold is fitted on every second pair of models and tested on the others, and vice versa. Arguments are
    those of `ulira`.
    """
    sides = _samples(phi_SP, member_SP, nonmember_SP)
    _require_models(min(min(len(u), len(r)) for u, r in sides), 2)
    paired = [(u[:min(len(u), len(r))], r[:min(len(u), len(r))]) for u, r in sides]
    scores = [(np.empty_like(u), np.empty_like(r)) for u, r in paired]
    for half in (0, 1):
        tau, sign = _threshold(np.concatenate([u[1 - half::2] for u, _ in paired]),
                               np.concatenate([r[1 - half::2] for _, r in paired]))
        for score, pair in zip(scores, paired, strict=True):
            for side, values in zip(score, pair, strict=True):
                side[half::2] = sign * (values[half::2] - tau)
    return _inference(scores, groups, resamples, seed)


def _samples(phi_SP: ArrayLike, member_SP: ArrayLike, nonmember_SP: ArrayLike) -> list[tuple[Floats, Floats]]:
    phi, member, outside = np.asarray(phi_SP, float), np.asarray(member_SP, bool), np.asarray(nonmember_SP, bool)
    if phi.shape != member.shape or phi.shape != outside.shape or (member & outside).any():
        raise ValueError("phi and the two masks need one shape, and no model can be both a member and a non-member")
    return [(phi[member[:, p], p], phi[outside[:, p], p]) for p in range(phi.shape[1])]


def _require_models(fewest: int, needed: int) -> None:
    if fewest < needed:
        raise ValueError(f"a row has only {fewest} models on one side; {needed} are needed")


def _likelihood_ratio(log_density: LogDensity, phi_SP: ArrayLike, member_SP: ArrayLike, nonmember_SP: ArrayLike,
                      shared: bool | None, groups: Sequence[Hashable] | None, resamples: int, seed: int) -> Inference:
    """Each of the first pairs of models is left out in turn and tested with the densities of the others."""
    sides = _samples(phi_SP, member_SP, nonmember_SP)
    fewest = min(min(len(u), len(r)) for u, r in sides)
    shared = fewest < FEW if shared is None else shared
    _require_models(fewest, 2 if shared else 3)
    spread = [_means_of_others([float(pair[side].var(ddof=1)) for pair in sides]) if shared else None
              for side in (0, 1)]
    tested = []
    for p, pair in enumerate(sides):
        scores = np.zeros((2, fewer := min(map(len, pair))))
        for k in range(fewer):
            held_out = np.array([pair[0][k], pair[1][k]])
            for sign, values, means in zip((1, -1), pair, spread, strict=True):
                rest = np.delete(values, k)
                var = float(rest.var(ddof=1)) if means is None else means[p]
                scores[:, k] += sign * log_density(held_out, rest, max(var, LEAST_VARIANCE))
        tested.append((scores[0], scores[1]))
    return _inference(tested, groups, resamples, seed)


def _means_of_others(values: list[float]) -> Floats:
    """Per value the mean of all other values; the value itself if it is the only one."""
    total = math.fsum(values)
    return np.array([(total - v) / (len(values) - 1) if len(values) > 1 else v for v in values])


def _log_normal(x: Floats, values: Floats, var: float) -> Floats:
    """Of a Gaussian with the mean of the values, up to a constant."""
    return np.asarray(-0.5 * (np.log(var) + (x - values.mean()) ** 2 / var), dtype=float)


def _log_kernel(x: Floats, values: Floats, var: float) -> Floats:
    """Of the mean of Gaussians around the values, up to the same constant."""
    var *= len(values) ** -0.4  # Scott 1992: the bandwidth is n^(-1/5) standard deviations
    return np.asarray(-0.5 * np.log(var) + logsumexp(-0.5 * (x[:, None] - values) ** 2 / var, axis=1)
                      - np.log(len(values)), dtype=float)


def _threshold(members: Floats, nonmembers: Floats) -> tuple[float, int]:
    """The threshold of best balanced accuracy, midway between two values, and +1 if members lie above it, else -1."""
    values = np.unique(np.concatenate([members, nonmembers]))
    cuts = (values[1:] + values[:-1]) / 2 if len(values) > 1 else values
    above = [1 - np.searchsorted(np.sort(x), cuts, side="right") / len(x) for x in (members, nonmembers)]
    gain = above[0] - above[1]
    best = int(np.argmax(np.abs(gain)))
    return float(cuts[best]), 1 if gain[best] >= 0 else -1


def _inference(scores: Sequence[tuple[Floats, ...]], groups: Sequence[Hashable] | None, resamples: int,
               seed: int) -> Inference:
    """From scores per point (of members, of non-members); larger = member, 0 counts as half."""
    per_point = np.array([(_share(u) + _share(-r)) / 2 for u, r in scores])
    members, nonmembers = (np.concatenate([pair[side] for pair in scores]) for side in (0, 1))
    gathered: dict[Hashable, list[float]] = {}
    for name, value in zip(groups if groups is not None else range(len(scores)), per_point, strict=True):
        gathered.setdefault(name, []).append(float(value))
    sums = np.array([(sum(values), len(values)) for values in gathered.values()])
    interval = bootstrap(lambda s: float(s["groups"][:, 0].sum() / s["groups"][:, 1].sum()), {"groups": sums},
                         resamples, seed)
    worst = np.sort(per_point)[-max(1, round(WORST * len(per_point))):]
    return Inference(
        accuracy=float(per_point.mean()), interval=interval, auc=auc(members, nonmembers),
        tpr={rate: tpr_at(members, nonmembers, rate) for rate in RATES}, worst=float(worst.mean()),
        per_point=per_point, pairs=min(len(u) for u, _ in scores))


def _share(values: Floats) -> float:
    return float((values > 0).mean() + (values == 0).mean() / 2)


def tpr_at(members: Floats, nonmembers: Floats, fpr: float) -> float:
    """Share of members above the lowest threshold that at most a share `fpr` of non-members exceeds."""
    allowed = int(np.floor(fpr * len(nonmembers) + 1e-9))
    return float((members > np.sort(nonmembers)[::-1][allowed]).mean()) if allowed < len(nonmembers) else 1.0


# KLoM: KL divergence of margins (arXiv 2410.23232)


def klom(unlearned_mP: ArrayLike, oracle_mP: ArrayLike, *, bins: int = 20, least: float = 1e-5) -> Floats:
    """KL(unlearned || oracle) per point, in nats, over equal bins between the minimum and maximum of both: shape P.

    The last bin is closed, so the largest value counts. Bins with unlearned models only get q = `least`,
    which bounds the result near ln(1e5). The estimate is biased upwards, depending on m and the bins.

    Raises:
        ValueError: the two sides differ in their number of models.
    """
    unlearned, oracle = (np.clip(np.asarray(x, float), -CLIP, CLIP) for x in (unlearned_mP, oracle_mP))
    if unlearned.shape != oracle.shape:
        raise ValueError("KLoM compares equal numbers of models: its bias depends on them")
    return np.array([_divergence(a, b, bins, least) for a, b in zip(unlearned.T, oracle.T, strict=True)])


def _divergence(a: Floats, b: Floats, bins: int, least: float) -> float:
    low, high = min(a.min(), b.min()), max(a.max(), b.max())
    if low == high:
        return 0.0
    p, q = (np.histogram(x, bins=bins, range=(low, high))[0] / len(x) for x in (a, b))
    filled = p > 0
    return float((p[filled] * np.log(p[filled] / np.maximum(q[filled], least))).sum())


def summary(values: Floats) -> dict[str, float]:
    """Mean, median and the two upper percentiles over points."""
    return {"mean": float(values.mean()), "median": float(np.median(values)),
            "p95": float(np.percentile(values, 95)), "p99": float(np.percentile(values, 99))}


# Epsilon as in the NeurIPS 2023 unlearning challenge (arXiv 2406.09073)

DELTA = 1e-5
CAP = 50.0
GRID = 100
"""Thresholds per unit of range."""
BEYOND = 2.0
"""How far double thresholds extend beyond the range of the inner sample."""
BUCKET = 0.5


def epsilon(first: ArrayLike, second: ArrayLike, *, delta: float = DELTA) -> float:
    """The largest epsilon that a threshold attack shows between two samples of one point's margins, 0 to 50.

    Attacks: `value >= t` predicts the sample with the larger median; `a <= value <= b` the one with the
    smaller range (right ends within its range +-2, left ends within +-2 of one width further left). An attack
    without errors gives infinity (the cap); one with errors of a single kind is not counted. Equal samples give 0,
    also if all their values are the same and no attack is counted. If medians or ranges are equal, both orders are
    tried, so that the order of the samples has no effect.

    As the maximum of hundreds of thousands of noisy ratios it is strongly biased: for two samples of one
    distribution it is near ln 5 from 8 to 512 models.
    """
    a, b = np.sort(np.asarray(first, float)), np.sort(np.asarray(second, float))
    if np.array_equal(a, b):
        return 0.0
    widths = float(np.ptp(a)), float(np.ptp(b))
    if min(widths) < 0.01 * max(widths):
        return CAP
    estimates = [_single(x, y, delta) for x, y in _roles(a, b, -float(np.median(a)), -float(np.median(b)))]
    estimates += [_double(x, y, delta) for x, y in _roles(a, b, *widths)]
    known = [e for e in estimates if not math.isnan(e)]
    return min(max(known), CAP) if known else CAP


def _roles(a: Floats, b: Floats, key_a: float, key_b: float) -> list[tuple[Floats, Floats]]:
    """(positive, negative): the sample with the smaller key first; both orders when the keys are equal."""
    return [(a, b)] * (key_a <= key_b) + [(b, a)] * (key_b <= key_a)


def _single(positive: Floats, negative: Floats, delta: float) -> float:
    low, high = min(positive[0], negative[0]), max(positive[-1], negative[-1])
    cuts = np.linspace(low, high, math.ceil((high - low) * GRID) + 1)
    tpr, fpr = (_share_between(x, np.searchsorted(x, cuts), len(x)) for x in (positive, negative))
    return _epsilon_of(tpr, fpr, delta)


def _double(inner: Floats, outer: Floats, delta: float) -> float:
    width, step = inner[-1] - inner[0], 1 / GRID
    rights = math.ceil((width + 2 * BEYOND) * GRID) + 1
    offsets = 1 + math.floor(min(2 * BEYOND, width + BEYOND) * GRID)  # beyond it a left end would pass its right end
    right = inner[0] - BEYOND + step * np.arange(rights)
    # Both ends lie on one grid: left end j of right end i has index i + j.
    left = inner[0] - 2 * BEYOND - width + step * np.arange(rights + offsets - 1)
    tpr, fpr = (
        _share_between(x, np.lib.stride_tricks.sliding_window_view(np.searchsorted(x, left), offsets),
                       np.searchsorted(x, right, side="right")[:, None]) for x in (inner, outer))
    return _epsilon_of(tpr, fpr, delta)


def _share_between(values: Floats, start: NDArray[np.intp], stop: NDArray[np.intp] | int) -> Floats:
    """Share of the sorted values between two indices."""
    return np.asarray((stop - start) / len(values), dtype=float)


def _epsilon_of(tpr: Floats, fpr: Floats, delta: float) -> float:
    """max over attacks of ln((1 - delta - one rate) / the other); NaN when every attack has errors of one kind only."""
    fnr = 1 - tpr
    if ((fpr == 0) & (fnr == 0)).any():
        return math.inf
    use = (fpr > 0) & (fnr > 0)
    if not use.any():
        return math.nan
    fpr, fnr = fpr[use], fnr[use]
    ratio = np.maximum((1 - delta - fpr) / fnr, (1 - delta - fnr) / fpr)
    return max(0.0, math.log(ratio.max())) if ratio.max() > 0 else 0.0


def points(eps: float, m: int) -> float:
    """1, 1/2, 1/4, ... per half unit of epsilon, 0 from ceil(ln(m - 1)) on: m models cannot show more."""
    return 2.0 ** -math.floor(eps / BUCKET) if eps < math.ceil(math.log(m - 1)) else 0.0


def forgetting_quality(unlearned_mP: ArrayLike, retrained_mP: ArrayLike) -> tuple[float, Floats]:
    """(F, epsilon per point): F = mean points, 1 only for identical samples; compare with F of two retrained sets.

    Raises:
        ValueError: the sides differ in size, or have fewer than three models.
    """
    a, b = np.asarray(unlearned_mP, float), np.asarray(retrained_mP, float)
    if a.shape != b.shape:
        raise ValueError("epsilon compares equal numbers of models")
    _require_models(len(a), 3)
    epsilons = np.array([epsilon(x, y) for x, y in zip(a.T, b.T, strict=True)])
    return float(np.mean([points(e, len(a)) for e in epsilons])), epsilons
