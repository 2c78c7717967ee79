"""The threshold attack against values by hand."""

from __future__ import annotations

import math

import pytest

from expunge.comparator.membership import attack_score, privacy_score, rates, statistics, strongest, thresholds


@pytest.mark.parametrize(("fpr", "fnr", "score"), [
    (0.5, 0.5, 0.0),  # chance
    (0.0, 0.0, 1.0),  # told apart without a mistake
    (1.0, 0.0, 0.0), (0.0, 1.0, 0.0),  # everything or nothing is flagged
    (0.0, 0.5, 1 - 2 ** -math.log((1 - 1e-5) / 0.5)),  # the smaller ratio counts: ln 2, and not infinity
    (0.25, 0.25, 1 - 2 ** -math.log((1 - 1e-5 - 0.25) / 0.25)),
])
def test_attack_score(fpr: float, fnr: float, score: float) -> None:
    assert attack_score(fpr, fnr) == pytest.approx(score, abs=1e-9)


def test_rates_of_both_directions() -> None:
    forget, control = [1.0, 2.0, 3.0, 4.0], [0.0, 1.0, 2.0, 3.0]
    assert rates(forget, control, 2.5, above=True) == (0.25, 0.5)
    assert rates(forget, control, 2.5, above=False) == (0.75, 0.5)
    assert rates(forget, control, 3.0, above=True) == (0.25, 0.5)  # a tie is flagged


def test_thresholds_span_both_sides() -> None:
    assert thresholds([1.0, 3.0], [0.0, 2.0], 4) == [0.0, 1.0, 2.0, 3.0]


def test_the_privacy_score() -> None:
    same, far = {"entropy": [1.0, 2.0, 3.0], "confidence": [0.1, 0.2, 0.3]}, {"entropy": [7.0, 8.0, 9.0]}
    assert privacy_score(same, same) == 1.0
    assert privacy_score(same, far) == 0.0
    assert privacy_score({"loss": [1.0]}, {"loss": [2.0]}) is None  # ours, and not of the paper
    half = strongest([0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 0.0, 0.0])
    assert half == pytest.approx(attack_score(0.0, 0.5))


def test_statistics_leave_out_the_end_and_what_is_broken() -> None:
    row = {"id": "x", "logp": [math.log(0.5), math.log(0.5), -9.0], "mean": [-2.0, -4.0, 0.0], "end": 1}
    found = statistics([row, {**row, "id": "nan", "logp": [math.nan] * 3}, {**row, "id": "none", "logp": [], "end": 0}])
    assert found == {"loss": {"x": 0.6931}, "confidence": {"x": 0.0}, "entropy": {"x": 3.0}}
    assert statistics([{"id": "y", "logp": [0.0], "end": 0}])["confidence"]["y"] == pytest.approx(16.12)
