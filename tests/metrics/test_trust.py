"""The meta-evaluation of metrics: hand-worked values of both protocols, what it says of metrics that know nothing or
all, and whether the stored table is what the stored readings give."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from expunge.judgement.trust import (
    FEWEST,
    Known,
    Readings,
    fitted,
    folds_of,
    held_out_values,
    likeness,
    quantisation_robustness,
    relearning_robustness,
    threshold,
    trust,
)
from expunge.metrics.statistics import auc, harmonic_mean

ROOT = Path(__file__).resolve().parents[2]
KINDS = {"plain": True, "paraphrased": True, "never": False, "wrong": False}


def made(values: dict[str, list[float]]) -> list[Known]:
    return [Known(kind, KINDS[kind], v) for kind, each in values.items() for v in each]


def test_a_constant_metric_is_worth_a_coin() -> None:
    """It cannot tell models apart, and nothing moves it."""
    found = trust(made({k: [0.5] * 10 for k in KINDS}), [Readings(0.5, 0.5, 0.5)] * FEWEST, {"": [0.0]}, resamples=50)
    assert found.faithfulness == 0.5 and found.interval == (0.5, 0.5) and found.worst_fold[1] == 0.5
    for protocol in (found.published, found.symmetric):
        assert protocol is not None
        assert protocol.robustness == 1.0 and protocol.overall == pytest.approx(2 / 3)
    assert found.near_zero == 1.0, "nothing moved, so that the symmetric R rests on 0 / 0"


PERFECT = {"plain": [0.9, 0.8], "paraphrased": [1.0], "never": [0.1, 0.2], "wrong": [0.0]}


def test_a_perfect_metric() -> None:
    unlearned = [Readings(0.1, 0.2, 0.1)] * FEWEST + [Readings(0.9, 0.9, 0.9)]
    found = trust(made(PERFECT), unlearned, {"": [0.1]}, resamples=50)
    assert (found.faithfulness, found.models) == (1.0, FEWEST), "the last still knows"
    assert found.threshold == pytest.approx(0.5)
    assert found.published is not None and found.symmetric is not None
    assert found.published.overall == found.symmetric.overall == pytest.approx(1.0)


@pytest.mark.parametrize("count", [0, 1, FEWEST - 1, FEWEST])
def test_too_few_models_give_no_rank(count: int) -> None:
    """Models that still know by this metric do not count, however many they are."""
    unlearned = [Readings(0.1, 0.2, 0.1)] * count + [Readings(0.9, 1.0, 1.0)] * 30
    found = trust(made(PERFECT), unlearned, {"": [0.1]}, resamples=20)
    assert found.models == count and found.faithfulness == 1.0
    assert (found.published is None) == (found.symmetric is None) == (count < FEWEST)
    assert (found.near_zero is None) == (count == 0)


def test_hand_worked_published_robustness() -> None:
    assert relearning_robustness(0.1, 0.5, 0.1) == pytest.approx(0.25)
    assert relearning_robustness(0.1, 0.15, 0.1) == 1.0
    assert relearning_robustness(0.2, 0.1, -0.1) == 1.0
    assert relearning_robustness(0.2, 0.4, -0.1) == 0.0, "the retrained model fell while this one rose"
    assert quantisation_robustness(0.2, 0.8) == pytest.approx(0.25)
    assert quantisation_robustness(0.2, 0.1) == quantisation_robustness(0.0, 0.0) == 1.0


def test_hand_worked_symmetric_robustness() -> None:
    assert likeness(0.2, 0.8) == likeness(0.8, 0.2) == pytest.approx(0.4)
    assert likeness(0.3, 0.3) == likeness(0.0, 0.0) == 1.0
    assert likeness(0.1, -0.1) == likeness(0.0, 0.2) == 0.0, "one rises and the other falls, or does not move"


def test_the_protocols_differ_where_a_metric_falls() -> None:
    """Rounding halves it, and relearning moves it less than the retrained model: only the symmetric one minds."""
    found = trust(made(PERFECT), [Readings(0.2, 0.25, 0.1)] * FEWEST, {"": [0.1]}, resamples=20)
    assert found.published is not None and found.symmetric is not None
    assert (found.published.relearning, found.published.quantisation) == (1.0, 1.0)
    assert (found.symmetric.relearning, found.symmetric.quantisation) == (pytest.approx(2 / 3), pytest.approx(2 / 3))


def test_each_size_has_retrained_models_of_its_own() -> None:
    """D_ret is the mean gain of those of the same size."""
    unlearned = [Readings(0.1, 0.2, 0.1, "npo", "small")] * 5 + [Readings(0.1, 0.5, 0.1, "npo", "large")] * 5
    found = trust(made(PERFECT), unlearned, {"small": [0.0, 0.2], "large": [0.4, 0.4]}, resamples=20)
    assert found.symmetric is not None and found.symmetric.relearning == pytest.approx(1.0)


def test_the_threshold_makes_the_fewest_mistakes() -> None:
    knowing, ignorant = [0.4, 0.8, 0.9], [0.1, 0.5, 0.2]
    cut = threshold(knowing, ignorant)
    mistakes = sum(v <= cut for v in knowing) + sum(v > cut for v in ignorant)
    assert mistakes == 1
    assert threshold([0.5], [0.5]) == 0.5


def drawn_pool(random: np.random.Generator, count: int) -> list[Known]:
    """Two kinds a side; AUC of knowing over ignorant is Phi(1 / sqrt 2) = 0.76 in every fold."""
    return made({kind: random.normal(1.0 if knows else 0.0, 1.0, count).tolist() for kind, knows in KINDS.items()})


def test_the_mean_over_folds_is_the_auc_of_the_pool() -> None:
    pool = drawn_pool(np.random.default_rng(3), 8)
    found = trust(pool, [], {}, resamples=10)
    assert set(found.folds) == set(folds_of(pool)) and len(found.folds) == 4
    assert found.faithfulness == pytest.approx(auc([m.value for m in pool if m.knows],
                                                   [m.value for m in pool if not m.knows]))
    fold, worst = found.worst_fold
    assert worst == min(found.folds.values())
    assert worst == pytest.approx(auc(*([m.value for m in pool if m.kind == kind] for kind in fold)))


def test_the_interval_of_faithfulness_covers() -> None:
    """The truth is known, and about 95 of 100 intervals hold it."""
    random, truth, held = np.random.default_rng(0), 0.7602, 0
    for seed in range(100):
        low, high = trust(drawn_pool(random, 15), [], {}, resamples=200, seed=seed).interval
        held += low <= truth <= high
    assert 88 <= held <= 100


def test_the_interval_of_robustness_covers() -> None:
    """Q is 0.5 on average over models, R is 1."""
    random, held = np.random.default_rng(1), 0
    truth = 2 * 0.5 / 1.5
    for seed in range(100):
        kept = [Readings(share, share, 1.0, recipe) for recipe in ("npo", "rmu")
                for share in random.uniform(0.2, 0.8, 15)]
        pool = made({"plain": [2.0], "paraphrased": [3.0], "never": [0.0], "wrong": [0.1]})
        found = trust(pool, kept, {"": [0.0]}, resamples=200, seed=seed).published
        assert found is not None
        low, high = found.robustness_interval
        held += low <= truth <= high
    assert 88 <= held <= 100


def test_a_fit_is_judged_on_kinds_that_it_did_not_see() -> None:
    """A feature that only marks one kind helps where that kind was seen, and not where it is held out."""
    kinds = ("plain", "never", "paraphrased", "wrong")
    pool = [Known(kind, KINDS[kind], 0.0) for kind in kinds for _ in range(6)]
    features = [[float(m.kind == kind) for kind in kinds] for m in pool]
    seen = fitted(features, [m.knows for m in pool], features)
    assert auc(seen[[m.knows for m in pool]], seen[[not m.knows for m in pool]]) == 1.0
    found = trust(pool, [], {}, held_out=held_out_values(pool, features), resamples=10)
    assert found.faithfulness == 0.5 and found.worst_fold[1] == 0.5


@pytest.fixture(scope="module")
def table() -> Iterator[Any]:
    """experiments/meta_table.py as a module."""
    sys.path.insert(0, str(ROOT / "experiments"))
    try:
        yield importlib.import_module("meta_table")
    finally:
        sys.path.remove(str(ROOT / "experiments"))


def numbers(value: Any, path: str = "") -> Iterator[tuple[str, float]]:
    """Every number of nested records, with where it stands; words and gaps are part of that place."""
    if isinstance(value, dict | list):
        for key, each in value.items() if isinstance(value, dict) else enumerate(value):
            yield from numbers(each, f"{path}/{key}")
    else:
        yield (path, value) if isinstance(value, float | int) else (f"{path}={value}", 0.0)


def test_published_figures_agree_with_each_other(table: Any) -> None:
    """Robustness is the harmonic mean of the printed R and Q, so that the formula is theirs."""
    for row in table.PUBLISHED.values():
        assert harmonic_mean([row["R"], row["Q"]]) == pytest.approx(row["robustness"], abs=1e-3)


def test_the_stored_table_follows_from_the_stored_readings(table: Any) -> None:
    """Every figure of results/meta.json, intervals included."""
    found = json.loads((ROOT / "results" / "meta.json").read_text())
    judged = table.judged(found)
    again, stored = (dict(numbers(each)) for each in (judged, found["table"]))
    assert again.keys() == stored.keys()
    assert again == pytest.approx(stored, rel=1e-3, abs=1e-4), "to the digits that other versions of numpy keep"
    assert list(judged) == list(found["table"]), "and in the same order"
    sides = [m["knows"] for m in found["models"].values() if m["role"] == "pool"]
    assert sides.count(True) >= 30 and sides.count(False) >= 30
