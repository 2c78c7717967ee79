"""What a training with clipped and noisy gradients gives away: epsilon of a row, and of an entity with many rows.

The mechanism is the Poisson-sampled Gaussian of DP-SGD (Abadi et al. 2016, arXiv 1607.00133); neighbours differ by one
row, or by all rows of one entity. Computed by privacy loss distributions (dp-accounting).
"""

from __future__ import annotations

from math import comb, exp, inf, log
from typing import Any

from expunge.errors import MissingExtra, UsageError, install_line

INTERVAL, WIDE = 1e-3, 2e-2
"""Step of the discretised privacy loss, of a row and of an entity; it is rounded up, so a wider one gives a larger
epsilon."""
MOST_NOISE = 1e4


def accounting() -> Any:
    """The module dp_accounting. Raises MissingExtra with the line that installs it."""
    try:
        import dp_accounting
        from dp_accounting import pld
    except ImportError:
        raise MissingExtra("dp2unlearning needs the package dp-accounting.", "It is not installed.",
                           f"Install it with: {install_line('dp')}.") from None
    return dp_accounting, pld


def epsilon_of(noise: float, rate: float, steps: int, delta: float, rows: int = 1) -> float:
    """Epsilon at `delta` of all rows of an entity together.

    An entity with several rows is in a batch with a binomial number of them, so that one step is a mixture of
    Gaussians, each moved by as many clipping norms (Ganesh 2024, arXiv 2401.10294).

    Args:
        noise: standard deviation over the clipping norm.
        rate: chance of each row to be in a batch, drawn for itself.
        steps: of the optimizer, those of empty batches too.
        rows: of the entity.

    Returns:
        Infinite without noise; 0 without steps.
    """
    if steps == 0 or rate == 0:
        return 0.0
    if noise == 0:
        return inf
    dp, pld = accounting()
    event = dp.PoissonSampledDpEvent(rate, dp.GaussianDpEvent(noise)) if rows == 1 else \
        dp.dp_event.MixtureOfGaussiansDpEvent(noise, tuple(float(j) for j in range(rows + 1)), tuple(
            comb(rows, j) * rate ** j * (1 - rate) ** (rows - j) for j in range(rows + 1)))
    accountant = pld.PLDAccountant(value_discretization_interval=INTERVAL if rows == 1 else WIDE)
    accountant.compose(event, steps)
    return float(accountant.get_epsilon(delta))


def group_bound(epsilon: float, delta: float, rows: int) -> tuple[float, float]:
    """The textbook bound for an entity with `rows` rows from that of one: (k epsilon, k e^((k - 1) epsilon) delta).

    A delta of 1 or more says nothing.
    """
    exponent = (rows - 1) * epsilon + log(rows)
    return rows * epsilon, min(delta * exp(exponent), 1.0) if exponent < 700 else 1.0


def noise_for(epsilon: float, rate: float, steps: int, delta: float) -> float:
    """The least noise that keeps a row's epsilon, to 1 % above.

    Raises:
        UsageError: no noise below 10,000 clipping norms does.
    """
    low, high = 0.0, 1.0
    while epsilon_of(high, rate, steps, delta) > epsilon:
        low, high = high, high * 2
        if high > MOST_NOISE:
            raise UsageError(f"No noise gives epsilon {epsilon:g} in {steps} steps.",
                             fix="Take a larger epsilon, a smaller dp_batch or fewer dp_epochs.")
    while high - low > 0.01 * high:
        middle = (low + high) / 2
        low, high = (low, middle) if epsilon_of(middle, rate, steps, delta) <= epsilon else (middle, high)
    return high


__all__ = ["accounting", "epsilon_of", "group_bound", "noise_for"]
