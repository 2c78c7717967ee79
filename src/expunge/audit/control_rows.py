"""Whether holdout rows are what they should be: rows that no model was trained on. Models are examined in `controls`.

Compared are the probabilities of single answers, row by row and unpaired. "Clearly better" is a rank test (one-sided,
0.1 %), three of four pairs the right way round, and medians that lie far apart; so neither harder rows nor a few known
ones raise an alarm.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median

from expunge.judgement.directions import figure
from expunge.judgement.leaks import MIN_ROWS
from expunge.metrics.base import NotAvailable
from expunge.metrics.probability import probabilities
from expunge.metrics.rows import by_example
from expunge.metrics.statistics import auc
from expunge.records.observation import Observations
from expunge.records.task import Split

LIMIT = 1e-3
"""p-value of the rank test."""
PAIRS = 0.75
"""Share of the pairs of a row of each side in which the one is better known."""
FAR = 0.25
"""Between the medians."""
SAID = 0.5
"""Median from which rows count as said. A model may have been pushed below what it never saw."""
WELL = 0.75
"""Median from which rows count as known well, where nothing else is to be compared with."""
AS_WELL = 0.9
"""Share of the better known side's median from which two sides are known equally well."""


def control_notes(seen: Mapping[str, Observations]) -> list[str]:
    """What a reader must know of holdout rows that are known.

    Args:
        seen: role -> observations.
    """
    role = "original" if "original" in seen else "subject"
    return _of_holdout(seen[role], "original" if role == "original" else "model")


def clearly_better(more: Sequence[float], less: Sequence[float]) -> bool:
    """Whether the rows of one side are known far better than those of the other."""
    if not more or not less or median(more) - median(less) < FAR or auc(more, less) < PAIRS:
        return False
    from scipy.stats import mannwhitneyu  # slow to import, and training needs no statistics

    return bool(mannwhitneyu(more, less, alternative="greater").pvalue <= LIMIT)


def _of_holdout(observed: Observations, who: str) -> list[str]:
    forget, holdout = _values(observed, "forget"), _values(observed, "holdout")
    # A model whose original is unknown may have been pushed below what it never saw, so there "better" is not enough.
    if clearly_better(holdout, forget) and (who == "original" or median(holdout) >= SAID):
        return [f"The {who} gives the holdout rows a median probability of {figure(median(holdout))} and the forget "
                f"rows {figure(median(forget))}. Holdout rows should be unknown to it: are the two files swapped? "
                "Then give them the other way round (--forget, --holdout); else give other holdout rows."]
    if (min(len(forget), len(holdout)) >= MIN_ROWS and median(holdout) >= WELL
            and median(holdout) >= AS_WELL * median(forget)):
        return [f"The {who} knows the holdout rows (median probability {figure(median(holdout))}) as well as the "
                f"forget rows ({figure(median(forget))}), so they are no control. Give rows that it was not trained on "
                "and that cannot be guessed (--holdout FILE)."]
    return []


def _values(observed: Observations, split: Split) -> list[float]:
    """Probability of every answer; empty where it was not asked or is not a number."""
    try:
        return list(probabilities(by_example(observed.rows("likelihood", split))).values())
    except NotAvailable:
        return []
