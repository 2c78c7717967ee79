"""Forgetting degree and retained utility of a stream of deletion requests (FIT, arXiv 2601.21682).

Both compare a quality with the one expected after as many deletions: a straight line from the original model, from
which nothing is deleted, to the retrained one, from which everything is. Too much and too little count alike.
"""

from __future__ import annotations


def quality(probability: float, rouge_l: float, accuracy: float) -> float:
    """100 times the cube root of P * R * A, each in 0 to 1.

    Args:
        probability: of the answers, normalised by length (`forget.probability`, `retain.probability`).
        rouge_l: ROUGE-L of the greedy answers, of which FIT takes F1 (`forget.rouge_l(measure=f1)`).
        accuracy: share of answer tokens that are predicted (`forget.exact_memorization`).
    """
    return float(100 * (max(probability, 0.0) * max(rouge_l, 0.0) * max(accuracy, 0.0)) ** (1 / 3))


def expected(original: float, retrained: float, deleted: int, total: int) -> float:
    """The quality on the line after `deleted` of `total` rows. Raises ValueError where none are to be deleted."""
    if total <= 0 or not 0 <= deleted <= total:
        raise ValueError(f"{deleted} of {total} rows cannot have been deleted")
    return original + (retrained - original) * deleted / total


def degree(value: float, reference: float) -> float:
    """max(0, 1 - |value / reference - 1|), and 0 where the reference is 0.

    F.D. with the quality on forget rows so far, R.U. with that on retain rows.
    """
    return 0.0 if reference == 0 else max(0.0, 1 - abs(value / reference - 1))
