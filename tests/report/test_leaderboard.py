"""Markdown tables from stored results."""

from __future__ import annotations

import pytest

from expunge.errors import DataError, UsageError
from expunge.report.leaderboard import Spread, replace_between, summarise, table

RESULTS = [
    {"recipe": "npo", "seed": 0, "scores": {"model_utility": 0.9, "forget_quality": 0.2}},
    {"recipe": "ga", "seed": 0, "scores": {"model_utility": 0.1}},
    {"recipe": "npo", "seed": 1, "scores": {"model_utility": 0.8, "forget_quality": None}},
    {"recipe": "npo", "seed": 2, "scores": {"model_utility": 0.4, "forget_quality": 0.4}},
]


def test_median_and_range_over_seeds() -> None:
    npo, ga = summarise(RESULTS, "recipe", ["model_utility", "forget_quality"])
    assert npo == {
        "recipe": "npo",
        "seeds": 3,
        "model_utility": Spread(0.8, 0.4, 0.9, 3),
        "forget_quality": npo["forget_quality"],
    }
    assert npo["forget_quality"].n == 2 and npo["forget_quality"].centre == pytest.approx(0.3)
    assert ga["forget_quality"] is None and str(ga["model_utility"]) == "0.100"
    mean, _ = summarise(RESULTS, "recipe", ["model_utility"], centre="mean")
    assert mean["model_utility"].centre == pytest.approx(0.7)


def test_a_seed_counts_once_and_groups_must_exist() -> None:
    with pytest.raises(DataError, match="same seed twice"):
        summarise([RESULTS[0], RESULTS[0]], "recipe", [])
    with pytest.raises(DataError, match="has no 'model'"):
        summarise(RESULTS, "model", [])


def test_table() -> None:
    rows = summarise(RESULTS, "recipe", ["model_utility", "forget_quality"])
    assert table(rows, {"recipe": "Method", "seeds": "Seeds", "model_utility": "Utility"}) == (
        "| Method | Seeds | Utility |\n|---|---:|---:|\n"
        "| npo | 3 | 0.800 (0.400 to 0.900) |\n| ga | 1 | 0.100 |\n"
    )
    assert table([{"a": "x|y\nz", "b": None}], ["a", "b"]).splitlines()[2] == "| x\\|y z | – |"


def test_replace_between() -> None:
    text = "top\n<!-- generated:board -->\nold\n<!-- /generated:board -->\nend\n"
    once = replace_between(text, "board", "new\n")
    assert once == "top\n<!-- generated:board -->\nnew\n<!-- /generated:board -->\nend\n"
    assert replace_between(once, "board", "new\n") == once
    for bad in ("none", text + text, "<!-- /generated:board --><!-- generated:board -->"):
        with pytest.raises(UsageError, match="no single place"):
            replace_between(bad, "board", "new")
