"""What holds for every metric, on the made-up observations of observed_worlds.py."""

from __future__ import annotations

import pickle
from collections.abc import Callable

import numpy as np
import pytest

from expunge.metrics.base import Evidence, Metric
from expunge.metrics.evaluate import parse_metric
from expunge.metrics.statements import StatementTable
from expunge.records.observation import Observations, Row
from expunge.records.score import Score
from expunge.records.task import Split

from ..observed_worlds import WORLDS, rows_of, world
from .base import check, invariant
from .metrics import edit

CHANGED = {"truth_ratio": {"variant": "geometric"}, "forget_quality": {"variant": "legacy"},
           "rouge_l": {"measure": "f1", "stemmer": False}, "mia.min_k": {"k": 0.2},
           "mia.min_k_pp": {"k": 0.2}, "privleak": {"attack": "loss"}}
"""Options that a name has to show."""
BLIND_TO_LOGP = {"exact_memorization", "extraction_strength", "reliability", "recovery", "risk"}


def split_of(metric: type[Metric], split: Split = "forget") -> Split | None:
    return split if metric.card.per_split else None


def in_world(metric: type[Metric], name: str) -> Score:
    return metric().score(world(name), split_of(metric), resamples=50)


def with_logp(evidence: Evidence, value: float) -> Evidence:
    """Every log-prob of the subject is this value."""
    def change(row: Row) -> Row:
        return {**row, "logp": [value] * len(row["logp"])} if "logp" in row else row

    return changed(evidence, lambda rows: tuple(change(r) for r in rows))


def changed(evidence: Evidence, change: Callable[[tuple[Row, ...]], tuple[Row, ...]]) -> Evidence:
    return evidence.of(Observations({key: change(rows) for key, rows in rows_of(evidence.subject).items()}))


@invariant("metric")
def metric_card_is_complete(plugin: type[Metric]) -> None:
    """It says which observations it reads and how to read the number."""
    card = plugin.card
    assert card.probes, "card.probes is empty"
    assert card.range is None or card.range[0] < card.range[1]


@invariant("metric")
def values_are_in_range(plugin: type[Metric]) -> None:
    """Value, interval and controls lie in the card's range, in every made-up world."""
    low, high = plugin.card.range or (-float("inf"), float("inf"))
    for name in WORLDS:
        score = in_world(plugin, name)
        assert score.value is not None, (name, score.unavailable)
        numbers = [score.value, *(score.interval or ()), *score.controls.values()]
        assert plugin.resampled == (score.interval is not None), name
        assert all(v is not None and low <= v <= high for v in numbers), (name, score)
        assert score.n > 0 and set(score.controls) == {"original", "retrained"}, (name, score)
        if score.interval is not None:
            assert score.interval[0] <= score.value <= score.interval[1], (name, score)


@invariant("metric")
def row_order_changes_nothing(plugin: type[Metric]) -> None:
    """Rows the other way round give the same value, and the evidence is read only."""
    evidence = world("original")
    before = pickle.dumps(evidence)
    whole = plugin().score(evidence, split_of(plugin), resamples=5)
    turned = plugin().score(changed(evidence, lambda rows: rows[::-1]), split_of(plugin), resamples=5)
    assert turned.value == pytest.approx(whole.value, abs=1e-12)
    assert pickle.dumps(evidence) == before, "the evidence was changed"


@invariant("metric")
def same_seed_same_interval(plugin: type[Metric]) -> None:
    """Asked twice it says the same, and the score survives being written and read."""
    first, second = in_world(plugin, "retrained"), in_world(plugin, "retrained")
    assert first == second
    assert Score.model_validate(first.to_json()) == first


@invariant("metric")
def broken_models_are_named(plugin: type[Metric]) -> None:
    """Log-probabilities that are no numbers become a reason, not a value."""
    if plugin.card.name in BLIND_TO_LOGP or "likelihood" not in dict(plugin.card.probes):
        return
    score = plugin().score(with_logp(world("original"), float("nan")), split_of(plugin))
    assert score.value is None and "NaN" in (score.unavailable or ""), score


@invariant("metric")
def impossible_tokens_stay_finite(plugin: type[Metric]) -> None:
    """A guard that rules tokens out gives log 0; everything stays a number, without a warning."""
    score = plugin().score(with_logp(world("original"), float("-inf")), split_of(plugin), resamples=10)
    assert score.value is not None, score.unavailable


@invariant("metric")
def label_can_be_typed_again(plugin: type[Metric]) -> None:
    """The name of a score shows the options that differ from their defaults, and parses to the same metric."""
    options = CHANGED.get(plugin.card.name, {})
    made, split = plugin(**options), split_of(plugin, "retain")  # type: ignore[arg-type]
    typed, of = parse_metric(made.label(split))
    assert (type(typed), typed.spec, of) == (plugin, made.spec, split)
    assert ("(" in made.label(split)) == bool(options)


@check
def asks_rows_held_out(plugin: type[Metric]) -> None:
    """States of more numbers than rows, and no signal: a probe that saw the rows would order all of them."""
    draw, full = np.random.default_rng(0), world("original")
    noise = full.of(edit(full.subject, "statements", "retain", lambda row: {
        **row, "layers": [0], "states": draw.normal(size=(len(row["correct"]), 1, 400)).tolist()}))
    shares = plugin().values(noise, "retain")  # type: ignore[attr-defined]
    assert abs(float(np.mean(list(shares.values()))) - 0.5) < 0.2


@check
def shares_of_pairs(plugin: type[Metric]) -> None:
    """K of a separator is 1, of ties 0, of noise about 0.5; what keeps the order keeps K."""
    draw = np.random.default_rng(0)
    count = 400
    rows = {str(i): {"id": str(i), "entity": "", "correct": [True, False, False], "logp": [-1.0] * 3,
                     "states": draw.normal(size=(3, 1, 2)).tolist()} for i in range(count)}
    table = StatementTable.of(rows, "forget")
    noise = draw.normal(size=3 * count)
    assert set(table.shares(table.right_n.astype(float)).values()) == {1.0}
    assert set(table.shares(table.logp_n).values()) == {0.0}
    assert abs(float(np.mean(list(table.shares(noise).values()))) - 0.5) < 0.06
    assert table.shares(np.exp(3 * noise)) == table.shares(noise)
