"""Bootstrap, AUC, harmonic mean and Kolmogorov-Smirnov against known answers."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import ks_2samp
from sklearn.metrics import roc_auc_score

from expunge.metrics.statistics import auc, bootstrap, harmonic_mean, ks_pvalue

from . import reference

RANDOM = np.random.default_rng(3)
VALUES = RANDOM.random(400)


def mean(strata):  # type: ignore[no-untyped-def]
    (values,) = strata.values()
    return float(values.mean())


def test_plain_mean_path_equals_the_slow_one() -> None:
    for size in (1, 2, 400):
        strata = {"forget": VALUES[:size]}
        slow, fast = (bootstrap(mean, strata, 300, 5, plain_mean=p) for p in (False, True))
        assert slow == pytest.approx(fast, abs=1e-12)


def test_chunks_do_not_repeat(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("expunge.metrics.statistics.CHUNK", 4000)
    low, high = bootstrap(mean, {"forget": VALUES}, 1000, 0)
    half = 1.96 * VALUES.std() / 20
    assert (VALUES.mean() - low, high - VALUES.mean()) == pytest.approx((half, half), rel=0.15)


def test_intervals_cover() -> None:
    """Nearly 95 % of the intervals from 40 rows hold the true mean of 0.5."""
    random = np.random.default_rng(0)
    held = 0
    for seed in range(300):
        low, high = bootstrap(mean, {"x": random.random(40)}, 300, seed, plain_mean=True)
        held += low <= 0.5 <= high
    assert 0.89 <= held / 300 <= 0.98


def test_every_stratum_is_redrawn_and_a_constant_has_no_width() -> None:
    def gap(strata):  # type: ignore[no-untyped-def]
        return float(strata["forget"].mean() - strata["reference_forget"].mean())

    one_side = bootstrap(gap, {"forget": VALUES, "reference_forget": np.zeros(1)}, 500)
    both = bootstrap(gap, {"forget": VALUES, "reference_forget": VALUES}, 500)
    assert both[1] - both[0] > 1.2 * (one_side[1] - one_side[0])
    assert bootstrap(mean, {"x": np.full(9, 0.25)}) == (0.25, 0.25)
    assert bootstrap(mean, {"x": VALUES}, seed=1) != bootstrap(mean, {"x": VALUES}, seed=2)
    narrow, wide = (bootstrap(mean, {"x": VALUES}, level=level) for level in (0.5, 0.99))
    assert wide[0] < narrow[0] < narrow[1] < wide[1]


def test_first_and_last_row_are_drawn_like_the_others() -> None:
    for edge in (0, -1):
        values = np.zeros(20)
        values[edge] = 1.0
        seen: list[float] = []

        def note(strata, seen=seen):  # type: ignore[no-untyped-def]
            seen.append(mean(strata))
            return seen[-1]

        bootstrap(note, {"x": values}, 4000)
        assert np.mean(seen) == pytest.approx(1 / 20, rel=0.1)


def test_bootstrap_refuses_nothing_to_draw_from() -> None:
    for strata, resamples in (({}, 10), ({"x": np.zeros(0)}, 10), ({"x": VALUES}, 0)):
        with pytest.raises(ValueError, match="at least one"):
            bootstrap(mean, strata, resamples)


def test_auc_equals_counting_and_sklearn() -> None:
    for _ in range(20):
        inside, outside = (RANDOM.integers(0, 6, RANDOM.integers(1, 30)).astype(float) for _ in range(2))
        counted = np.mean([[1.0 if a > b else 0.5 if a == b else 0.0 for b in outside] for a in inside])
        labels = [1] * len(inside) + [0] * len(outside)
        assert auc(inside, outside) == pytest.approx(counted)
        assert auc(inside, outside) == pytest.approx(roc_auc_score(labels, np.concatenate([inside, outside])))
    assert auc([1.0, 1.0], [1.0]) == 0.5 and auc([2.0], [1.0]) == 1.0 and auc([1.0], [2.0]) == 0.0


def test_harmonic_mean() -> None:
    assert harmonic_mean([1, 1, 0]) == 0.0
    assert harmonic_mean([0.4] * 9) == pytest.approx(0.4)
    assert harmonic_mean([1e-320, 1.0]) == pytest.approx(2e-320, rel=1e-2)
    for bad in ([], [0.5, -0.1]):
        with pytest.raises(ValueError, match="harmonic"):
            harmonic_mean(bad)


@pytest.mark.parametrize(("parts", "printed"), [
    ((0.31, 1, 0.99), 0.58), ((0.32, 0.63, 1), 0.53), ((0.47, 0.50, 0.61), 0.52), ((0.27, 0.48, 0.78), 0.42),
    ((0.63, 0.06, 0.95), 0.15), ((0.08, 0.17, 0.93), 0.15), ((0.97, 0.003, 0.79), 0.009), ((0, 0.10, 1), 0.0),
    ((0.52, 0.06, 0.99), 0.15), ((0.56, 0.06, 0.95), 0.14),
])
def test_harmonic_mean_of_published_rows(parts: tuple[float, ...], printed: float) -> None:
    """OpenUnlearning, method table: Agg = HM(Mem, Priv, Util), up to the rounding of its inputs."""
    unit = 0.0005 if 0.003 in parts else 0.005  # inputs are printed to this half unit
    low = harmonic_mean([max(p - unit, 0) for p in parts]) - 0.005
    high = harmonic_mean([p + unit for p in parts]) + 0.005
    if printed == 0:
        assert harmonic_mean(parts) == 0
    else:
        assert low <= printed <= high
        assert harmonic_mean(parts) == pytest.approx(printed, abs=0.015)


def test_ks_equals_scipy_and_path_counting() -> None:
    for n, m in ((1, 1), (1, 5), (7, 7), (12, 17), (25, 40)):
        x, y = RANDOM.normal(size=n), RANDOM.normal(size=m) + 0.3
        assert ks_pvalue(x, y) == pytest.approx(ks_2samp(x, y).pvalue, rel=1e-12)
        assert ks_pvalue(x, y) == pytest.approx(reference.ks_pvalue(list(x), list(y)), rel=1e-6)


def test_ks_of_itself_is_exactly_one_and_ignores_order_preserving_changes() -> None:
    x, y = RANDOM.normal(size=400), RANDOM.normal(size=400) + 0.1
    assert ks_pvalue(x, x) == 1.0 and ks_pvalue(x, x[::-1]) == 1.0
    assert ks_pvalue(np.exp(x), np.exp(y)) == pytest.approx(ks_pvalue(x, y), rel=1e-9)
    assert ks_pvalue(1 / np.exp(x), 1 / np.exp(y)) == pytest.approx(ks_pvalue(x, y), rel=1e-9)


def test_ks_of_two_separate_samples_of_400_is_the_published_floor() -> None:
    """TOFU forget10, gradient ascent: 1.06e-239, the smallest p-value that 400 rows can give."""
    assert ks_pvalue(np.arange(400), np.arange(400) + 1000) == pytest.approx(1.06e-239, rel=5e-3)
