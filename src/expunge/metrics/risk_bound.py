"""Upper confidence bound of a mean risk between 0 and 1: Hoeffding and Bentkus, as risk control uses it.

Bates et al. 2021 (arXiv 2101.02703); FROC (arXiv 2512.13337) chooses settings of unlearning by it.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, exp, log, log1p

from expunge.errors import UsageError


def p_value(mean: float, risk: float, n: int) -> float:
    """How often the mean of n risks in [0, 1] is so small if the true mean is `risk` or more.

    min(exp(-n h(mean, risk)), e P(Binomial(n, risk) <= ceil(n mean))), with h(p, q) the divergence of two coins.
    """
    from scipy.special import bdtr

    if mean >= risk:
        return 1.0
    if risk >= 1.0:
        return 0.0
    low = mean * log(mean / risk) if mean > 0 else 0.0
    hoeffding = exp(-n * (low + (1 - mean) * (log1p(-mean) - log1p(-risk))))
    return min(hoeffding, exp(1.0) * float(bdtr(ceil(n * mean - 1e-9), n, risk)), 1.0)


def upper_bound(risks: Sequence[float], confidence: float = 0.95) -> float:
    """The smallest bound that the true mean risk exceeds with probability 1 - confidence at most; 1 of no risks.

    Args:
        risks: [N] independent risks in [0, 1]: one for each entity, since rows of one entity are not independent.

    Raises:
        UsageError: a risk lies outside [0, 1].
    """
    if any(not 0.0 <= risk <= 1.0 for risk in risks):
        raise UsageError("A risk lies outside 0 to 1.", "The bound holds for risks between 0 and 1 only.")
    n = len(risks)
    if n == 0:
        return 1.0
    mean = sum(risks) / n
    low, high = mean, 1.0
    for _ in range(50):  # p falls as the risk rises: halve the interval
        middle = (low + high) / 2
        low, high = (middle, high) if p_value(mean, middle, n) > 1 - confidence else (low, middle)
    return high


__all__ = ["p_value", "upper_bound"]
