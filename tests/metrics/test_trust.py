"""The meta-evaluation of metrics: hand-worked values, and what it says of metrics that know nothing or all."""

from __future__ import annotations

import pytest

from expunge.judgement.trust import Readings, quantisation_robustness, relearning_robustness, threshold, trust


def test_a_constant_metric_is_worth_a_coin() -> None:
    """It cannot tell models apart, and nothing moves it."""
    found = trust([0.5] * 20, [0.5] * 20, [Readings(0.5, 0.5, 0.5)] * 3, 0.0, resamples=50)
    assert found.faithfulness == 0.5 and found.interval == (0.5, 0.5)
    assert found.robustness == 1.0 and found.overall == pytest.approx(2 / 3)


def test_a_perfect_metric() -> None:
    unlearned = [Readings(0.1, 0.2, 0.1), Readings(0.9, 0.9, 0.9)]
    found = trust([0.9, 0.8, 1.0], [0.1, 0.2, 0.0], unlearned, 0.1, resamples=50)
    assert (found.faithfulness, found.models) == (1.0, 1), "the second still knows"
    assert found.threshold == pytest.approx(0.5)
    assert (found.relearning, found.quantisation, found.overall) == (pytest.approx(1.0), 1.0, pytest.approx(1.0))


def test_nothing_below_the_threshold_says_nothing_of_robustness() -> None:
    found = trust([0.9, 0.8], [0.1, 0.2], [Readings(0.9, 1.0, 1.0)], 0.1, resamples=50)
    assert found.models == 0 and found.robustness is None and found.overall is None


def test_hand_worked_robustness() -> None:
    assert relearning_robustness(0.1, 0.5, 0.1) == pytest.approx(0.25)
    assert relearning_robustness(0.1, 0.15, 0.1) == 1.0
    assert relearning_robustness(0.2, 0.1, -0.1) == 1.0
    assert relearning_robustness(0.2, 0.4, -0.1) == 0.0, "the retrained model fell while this one rose"
    assert quantisation_robustness(0.2, 0.8) == pytest.approx(0.25)
    assert quantisation_robustness(0.2, 0.1) == quantisation_robustness(0.0, 0.0) == 1.0


def test_the_threshold_makes_the_fewest_mistakes() -> None:
    knowing, ignorant = [0.4, 0.8, 0.9], [0.1, 0.5, 0.2]
    cut = threshold(knowing, ignorant)
    mistakes = sum(v <= cut for v in knowing) + sum(v > cut for v in ignorant)
    assert mistakes == 1
    assert threshold([0.5], [0.5]) == 0.5
