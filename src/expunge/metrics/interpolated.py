"""IAM: how far an unlearned model stands, row by row, from models that never met the row to models that fitted it.

Wang et al. 2025, "Towards Lifecycle Unlearning Commitment Management: Measuring Sample-level Unlearning Completeness"
(arXiv 2506.06112; official code Happy2Git/Unlearning_Inference_IAM, iam_score.py and iam_llm_score.py). Made for one
to a few shadow models, where `population.ulira` has nothing to fit. Pure functions of margins phi = ln(p / (1 - p)).

Legend: S models, P points, m shadow models.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
BOUND, LEAST = 0.1, 1e-5
"""e1 and e2 of the bounded Gumbel map; the authors' values for language models."""
STEPS = 100
"""Points between the two ends; the authors take 100 for classifiers and 1000 for language models."""
EULER = 0.5772156649
LEAST_SPREAD = 1e-9


def signal(phi: ArrayLike) -> Floats:
    """-ln(e1 - ln(p + e2)), the bounded Gumbel map of p = 1 / (1 + exp(-phi)); it grows with p."""
    p = np.exp(-np.logaddexp(0.0, -np.asarray(phi, float)))
    return np.asarray(-np.log(BOUND - np.log(p + LEAST)), dtype=float)


def iam(phi_P: ArrayLike, unseen_mP: ArrayLike, fitted_P: ArrayLike, *, steps: int = STEPS) -> Floats:
    """How much of what was learned of each row a model still holds: 0 (as if it never met it) to 1 (as if it had).

    For a = 0, 1/n, ... the row would have the signal u + a (f - u), between its unseen end u (mean over shadows) and
    its fitted end f. Around it models scatter as a Gumbel distribution with the standard deviation sd_a of that signal
    over all shadows and rows: beta = sqrt(6) sd_a / pi, mu = mean - 0.5772 beta. The score is the weighted mean of
    the distribution functions at the model's own signal s, sum_a a F_a(s) / sum_a a. The authors report one minus it,
    the completeness of unlearning. A row below its unseen end is near 0 too: over-unlearning does not show here.

    The spread over rows stands for the spread over models, so this is a grade and no probability.

    Args:
        phi_P: margins of the model under test.
        unseen_mP: margins of models that never met the row, one or more.
        fitted_P: margins of a model that was trained on it ("online"), or one value for all rows ("offline").
    """
    unseen_mP = signal(np.atleast_2d(np.asarray(unseen_mP, float)))
    value_P, fitted_P = signal(phi_P), np.broadcast_to(signal(fitted_P), unseen_mP.shape[1:])
    share_n = np.linspace(0.0, 1.0, steps)
    total_P = np.zeros(unseen_mP.shape[1])
    for share, weight in pairwise(share_n):
        between_mP = unseen_mP + share * (fitted_P - unseen_mP)
        scale = 6**0.5 / np.pi * max(float(between_mP.std()), LEAST_SPREAD)
        from_mode_P = (value_P - between_mP.mean(axis=0)) / scale + EULER
        total_P += weight * np.exp(-np.exp(np.minimum(-from_mode_P, 700.0)))
    return np.asarray(total_P / share_n[1:].sum(), dtype=float)


def iam_scores(phi_SP: ArrayLike, known_SP: ArrayLike, trained_SP: ArrayLike, unseen_SP: ArrayLike, *, models: int = 1,
               online: bool = True) -> Floats:
    """`iam` of every model and point, with `models` shadows other than the model's own; shape S x P.

    Args:
        phi_SP: margins of the models under test.
        known_SP: margins of the shadows' originals.
        trained_SP, unseen_SP: masks of the points that an original was trained on, and that it was not.
        models: shadows at each end of a point: the first ones after the model's own.
        online: the fitted end is what originals that were trained on the point say of it. Offline it is one value for
            all points, the mean of the points that the same shadows were trained on, so that nothing has to be
            trained on the point.

    Deviation: the authors' fitted end is the audited model's own original, which has no such end for rows that it
    never met; members and others must be scored alike here, so both ends come from other shadows.

    Raises:
        ValueError: a point has fewer than `models` other shadows at an end.
    """
    phi_SP, known_SP = np.asarray(phi_SP, float), np.asarray(known_SP, float)
    ends = [np.asarray(mask, bool) for mask in (trained_SP, unseen_SP)]
    scores_SP = np.full(phi_SP.shape, np.nan)
    for s in range(len(phi_SP)):
        order = [(s + k) % len(phi_SP) for k in range(1, len(phi_SP))]
        fitted_mP, unseen_mP = (_first(known_SP[order], mask[order], models) for mask in ends)
        fitted_P = _mean(fitted_mP) if online else _mean(fitted_mP.reshape(-1, 1))
        scores_SP[s] = iam(phi_SP[s], unseen_mP, fitted_P)
    return scores_SP


def _mean(phi_mP: Floats) -> Floats:
    """Mean of the signals, as a margin again."""
    p = np.clip(np.exp(BOUND - np.exp(-signal(phi_mP).mean(axis=0))) - LEAST, 1e-12, 1 - 1e-12)
    return np.asarray(np.log(p) - np.log1p(-p), dtype=float)


def _first(phi_SP: Floats, mask_SP: NDArray[np.bool_], count: int) -> Floats:
    """Per point the first `count` values under the mask: [count, P]."""
    fewest = int(mask_SP.sum(axis=0).min())
    if fewest < count:
        raise ValueError(f"a row has only {fewest} other models on one side; {count} are needed")
    rank_SP = np.cumsum(mask_SP, axis=0)
    return np.stack([phi_SP[(mask_SP & (rank_SP == k + 1)).argmax(axis=0), np.arange(phi_SP.shape[1])]
                     for k in range(count)])
