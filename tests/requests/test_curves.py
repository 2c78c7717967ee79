"""Metrics of a stream by hand, and when something came back."""

from __future__ import annotations

from random import Random

import pytest

from expunge.judgement.rebounds import LEAST_NOISE, UNKNOWN_NOISE, came_back, levels_of
from expunge.metrics.request_stream import degree, expected, quality
from expunge.metrics.stability_gap import (
    loss_per_request,
    min_acc,
    rebounds,
    stability_gap,
    sustainability,
    wc_acc,
    windowed_fall,
    windowed_rebound,
    worst_rebound,
)


def test_a_dip_is_the_worst_case() -> None:
    """Two sets, learned at 0 and 2; the first falls to 0.3 and recovers, the second to 0.7."""
    curves, done = [[0.9, 0.8, 0.3, 0.8, 0.85], [0.1, 0.2, 0.9, 0.7, 0.8]], [0, 2]
    assert min_acc(curves, done) == pytest.approx((0.3 + 0.7) / 2)
    assert min_acc([[0.1, 0.9, 0.5]], [1]) == 0.5, "values before and at the time do not count"
    assert wc_acc(0.6, 0.5, 3) == pytest.approx(0.6 / 3 + 2 / 3 * 0.5) and wc_acc(0.6, 0.5, 1) == 0.6
    with pytest.raises(ValueError, match="no set"):
        min_acc([[0.1, 0.2]], [1])
    with pytest.raises(ValueError, match="no set"):
        wc_acc(1, 1, 0)


def test_the_worst_case_is_never_above_the_average() -> None:
    rng = Random(0)
    for _ in range(50):
        k = rng.randint(2, 5)
        curves = [[rng.random() for _ in range(8)] for _ in range(k)]
        worst = min_acc(curves[:-1], [0] * (k - 1))
        assert wc_acc(curves[-1][-1], worst, k) <= sum(c[-1] for c in curves) / k + 1e-12


def test_windows_see_what_lies_within_them() -> None:
    curve = [0.9, 0.7, 0.8, 0.2, 0.6]
    assert windowed_fall(curve, 2) == pytest.approx(0.6) and windowed_fall(curve, 4) == pytest.approx(0.7)
    assert windowed_rebound(curve, 2) == pytest.approx(0.4) and windowed_rebound([0.3, 0.2, 0.1], 3) == 0
    with pytest.raises(ValueError, match="two values"):
        windowed_fall(curve, 1)


def test_a_gap_is_invisible_where_it_is_not_looked_at() -> None:
    curve = [1.0, 0.9, 0.4, 0.5, 0.95]
    assert stability_gap(curve) == pytest.approx(0.55)
    assert stability_gap(curve[::4]) == 0 and stability_gap([1.0, 0.6, 0.3]) == 0 and stability_gap([]) == 0


def test_what_returns_to_the_level_of_never_seen_is_no_rebound() -> None:
    assert rebounds([0.9, 0.1, 0.15, 0.3], 1) == pytest.approx([0.05, 0.2])
    assert rebounds([0.9, 0.1, 0.15, 0.3], 1, level=0.2) == pytest.approx([-0.05, 0.1])
    curves = {"r1": [0.9, 0.1, 0.2], "r2": [0.9, 0.9, 0.1], "r3": [0.9, 0.1, 0.5]}
    assert worst_rebound(curves, {"r1": 1, "r2": 2}, {}) == ("r1", pytest.approx(0.1))
    assert worst_rebound(curves, {"r1": 1, "r3": 1}, {"r3": 0.45}) == ("r1", pytest.approx(0.1))
    assert worst_rebound(curves, {"r2": 2}, {}) is None


def test_sustainability_is_a_share_of_the_start() -> None:
    assert sustainability([0.8, 0.6, 0.4]) == pytest.approx([1, 0.75, 0.5])
    assert loss_per_request([0.8, 0.6, 0.4]) == pytest.approx(0.25) and loss_per_request([0.5]) == 0
    with pytest.raises(ValueError, match="no utility"):
        sustainability([0.0, 0.1])


def test_fit_scores_of_a_stream_by_hand() -> None:
    """Half of the deletions done: the line is halfway between 100 and 20."""
    start, end = quality(1, 1, 1), quality(0.2, 0.4, 0.1)
    assert degree(45, expected(start, end, 10, 20)) == pytest.approx(0.75), "60 is expected: 1 - |45 / 60 - 1|"
    assert degree(quality(1, 1, 1), expected(start, start, 10, 20)) == 1


def test_noise_is_what_models_that_never_saw_the_rows_differ_by() -> None:
    two = [{"r1": 0.10, "r2": 0.30}, {"r1": 0.16, "r2": 0.28}]
    levels, noise = levels_of(["r1", "r2"], two, {"a": 0.9})
    assert levels == pytest.approx({"r1": 0.13, "r2": 0.29}) and noise == pytest.approx(0.06)
    levels, noise = levels_of(["r1"], two[:1], {"a": 0.1, "b": 0.3})
    assert levels == {"r1": 0.10} and noise == pytest.approx(0.1), "one retrained model shows a level but no noise"
    levels, noise = levels_of(["r1", "r2"], [], {"a": 0.1, "b": 0.3})
    assert levels == pytest.approx({"r1": 0.2, "r2": 0.2}) and noise == pytest.approx(0.1)
    assert levels_of(["r1"], [], {}) == ({"r1": 0.0}, UNKNOWN_NOISE)
    assert levels_of(["r1"], [], {"a": 0.1, "b": 0.1})[1] == LEAST_NOISE


def test_an_alarm_is_beyond_the_noise_above_both_levels() -> None:
    after, levels = {"r1": 0.05, "r2": 0.05, "r3": 0.4}, {"r1": 0.2, "r2": 0.0, "r3": 0.1}
    now = {"r1": 0.25, "r2": 0.25, "r3": 0.45, "r4": 0.9}
    assert came_back(now, after, levels, 0.1) == pytest.approx({"r2": 0.2})
    assert came_back(now, after, levels, 0.04) == pytest.approx({"r1": 0.05, "r2": 0.2, "r3": 0.05})
