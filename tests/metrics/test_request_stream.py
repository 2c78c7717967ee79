"""Forgetting degree and retained utility by hand."""

from __future__ import annotations

import pytest

from expunge.metrics.request_stream import degree, expected, quality


def test_quality_is_a_geometric_mean() -> None:
    assert quality(1, 1, 1) == pytest.approx(100) and quality(0.5, 0.0, 1) == 0
    assert quality(0.2, 0.4, 0.1) == pytest.approx(20)


def test_the_retrained_model_has_degree_one() -> None:
    """After all deletions the line is at the retrained model, before any at the original."""
    original, retrained = quality(0.99, 0.98, 1.0), quality(0.12, 0.4, 0.3)
    assert degree(retrained, expected(original, retrained, 300, 300)) == pytest.approx(1)
    assert degree(original, expected(original, retrained, 0, 300)) == pytest.approx(1)
    assert expected(80, 20, 150, 300) == 50


def test_too_much_costs_as_much_as_too_little() -> None:
    assert degree(30, 50) == pytest.approx(0.6) and degree(70, 50) == pytest.approx(0.6)
    assert degree(200, 50) == 0 and degree(0, 50) == 0 and degree(5, 0) == 0


def test_what_cannot_have_been_deleted_is_refused() -> None:
    for deleted, total in ((1, 0), (-1, 5), (6, 5)):
        with pytest.raises(ValueError, match="cannot have been deleted"):
            expected(1, 0, deleted, total)
