"""What a number of rows can decide, and whether that is enough. What an audit with an original and a retrained model
would miss is measured instead (`splices.py`). Pure arithmetic."""

from __future__ import annotations

from math import ceil

from expunge.records.score import Power

POWER = 0.8
"""In four of five cases."""
HALF = 0.5
"""Share of the forget rows: an audit that would miss a model which knows half of them does not say "forgets"."""
_QUANTILES = 1.96 + 0.8416
"""Of the normal distribution: 5 % on two sides, and 80 % power."""
_KS = 1.36 * 2**0.5 + 0.8416 * 0.5**0.5
"""Critical gap of the Kolmogorov-Smirnov test at 5 % for two times n rows, times sqrt(n), and 0.84 standard errors of
a gap of that size."""


def least_share(rows: int) -> float:
    """Smallest share of known rows that a comparison of two distributions of `rows` rows notices with 80 % power.

    At best: known rows are taken to stand out without fail, which truth ratios do not.
    """
    return min(1.0, _KS / max(rows, 1) ** 0.5)


def misses_half(rows: int, power: Power | None = None) -> bool:
    """Whether half of the forget set could be known without being noticed: as measured, else by the number of rows."""
    if power is None or power.missed is None:
        return least_share(rows) > HALF
    return power.missed >= HALF * power.entities


def worded_power(power: Power | None) -> str:
    """One sentence; empty where nothing was measured."""
    if power is None or power.missed is None:
        return ""
    lone = "" if power.control != "retrained" else ", at best, with one retrained model"
    if power.missed == 0:
        one = "entity" if power.unit == "entities" else "row"
        return f"The audit would notice a single known {one} of {power.entities} in 80 % of cases (as asked{lone})."
    return (f"The audit would miss up to {power.missed} of {power.entities} known {power.unit}; more it would notice "
            f"in 80 % of cases (as asked{lone}).")


def rows_for(share: float) -> int:
    """Rows from which `least_share` is no larger."""
    return ceil((_KS / share) ** 2)


def holdout_rows(rows: int, least: int) -> tuple[int, str] | None:
    """How many rows that the model never saw settle whether it knows `rows` forget rows, and how much it would notice.

    With so many a rank test (two-sided, 5 %) tells forget rows from them with 80 % power when the model knows a third
    of the forget rows, or half or all of them where the forget set is too small for that. Noether 1987: K = (z_a +
    z_b)^2 / (12 (AUC - 1/2)^2), and m = K n / (n - K). None where no number is enough.
    """
    for share, words in ((1 / 3, "a third"), (HALF, "half"), (1.0, "all")):
        needed = _QUANTILES**2 / (12 * (share / 2) ** 2)
        if rows > needed and (most := ceil(needed * rows / (rows - needed))) <= 4 * rows:
            return max(most, least), words
    return None
