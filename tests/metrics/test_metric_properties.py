"""Every metric of the registry, whoever wrote it, shows what it says it must show."""

from __future__ import annotations

import pickle
from typing import cast

import pytest

from expunge import registry
from expunge.metrics.base import Metric
from expunge.metrics.evaluate import parse_metric
from expunge.plugin import Property
from expunge.records.observation import Observations
from expunge.records.score import Score
from expunge.testing.checks import CHECKS
from expunge.testing.observed_worlds import WORLDS, rows_of, world

METRICS = [cast(type[Metric], entry.load()) for entry in registry.of_kind("metric")]
OURS = {
    "probability", "rouge_l", "truth_ratio", "exact_memorization", "extraction_strength", "accuracy",
    "mia.loss", "mia.zlib", "mia.min_k", "mia.min_k_pp", "privleak", "model_utility", "forget_quality",
}
SHOWN = [(m, p) for m in METRICS for p in m.must_show]


def name_of(metric: type[Metric]) -> str:
    return metric.card.name


def test_every_file_is_found() -> None:
    assert {m.card.name for m in METRICS} >= OURS


@pytest.mark.parametrize("metric", METRICS, ids=name_of)
def test_has_a_property_and_a_whole_card(metric: type[Metric]) -> None:
    card = metric.card
    assert metric.must_show, f"{card.name} promises nothing"
    assert card.kind == "metric" and card.summary and card.paper and card.formula and card.probes
    assert card.range is None or card.range[0] < card.range[1]


@pytest.mark.parametrize(("metric", "shown"), SHOWN,
                         ids=[f"{m.card.name}-{p.check}-{i}" for i, (m, p) in enumerate(SHOWN)])
def test_must_show(metric: type[Metric], shown: Property) -> None:
    CHECKS[shown.check](metric, **shown.args)


def in_world(metric: type[Metric], name: str) -> Score:
    return metric().score(world(name), "forget" if metric.card.per_split else None, resamples=50)


@pytest.mark.parametrize("metric", METRICS, ids=name_of)
def test_value_interval_and_controls_are_in_range(metric: type[Metric]) -> None:
    for name in WORLDS:
        score = in_world(metric, name)
        assert score.value is not None, (name, score.unavailable)
        numbers = [score.value, *(score.interval or ()), *score.controls.values()]
        assert metric.resampled == (score.interval is not None)
        low, high = metric.card.range or (-float("inf"), float("inf"))
        assert all(v is not None and low <= v <= high for v in numbers), (name, score)
        assert score.n > 0 and set(score.controls) == {"original", "retrained"}
        if score.interval is not None:
            assert score.interval[0] <= score.value <= score.interval[1]


@pytest.mark.parametrize("metric", METRICS, ids=name_of)
def test_order_of_rows_does_not_matter_and_nothing_is_changed(metric: type[Metric]) -> None:
    evidence = world("original")
    split = "forget" if metric.card.per_split else None
    before = pickle.dumps(evidence)
    whole = metric().score(evidence, split, resamples=5)
    mixed = Observations({key: rows[::-1] for key, rows in rows_of(evidence.subject).items()})
    turned = metric().score(evidence.of(mixed), split, resamples=5)
    assert turned.value == pytest.approx(whole.value, abs=1e-12)
    assert pickle.dumps(evidence) == before


@pytest.mark.parametrize("metric", METRICS, ids=name_of)
def test_same_seed_same_interval_and_json_round_trip(metric: type[Metric]) -> None:
    first, second = in_world(metric, "retrained"), in_world(metric, "retrained")
    assert first == second
    assert Score.model_validate(first.to_json()) == first


BLIND_TO_LOGP = {"exact_memorization", "extraction_strength"}
READING_LOGP = [m for m in METRICS if m.card.name not in BLIND_TO_LOGP and "likelihood" in dict(m.card.probes)]


@pytest.mark.parametrize("metric", READING_LOGP, ids=name_of)
def test_a_broken_model_is_named_not_scored(metric: type[Metric]) -> None:
    """NaN log-probabilities must not become a number."""
    evidence = world("original")
    rows = rows_of(evidence.subject)
    broken = {key: [{**r, "logp": [float("nan")] * len(r["logp"])} if "logp" in r else r for r in found]
              for key, found in rows.items()}
    score = metric().score(evidence.of(Observations(broken)), "forget" if metric.card.per_split else None)
    assert score.value is None and "NaN" in (score.unavailable or "")


@pytest.mark.parametrize("metric", METRICS, ids=name_of)
def test_impossible_tokens_stay_finite(metric: type[Metric]) -> None:
    """A guard that rules tokens out gives log 0; everything stays a number, without a warning."""
    evidence = world("original")
    rows = rows_of(evidence.subject)
    ruled_out = {key: [{**r, "logp": [float("-inf")] * len(r["logp"])} if "logp" in r else r for r in found]
                 for key, found in rows.items()}
    score = metric().score(evidence.of(Observations(ruled_out)), "forget" if metric.card.per_split else None,
                           resamples=10)
    assert score.value is not None


@pytest.mark.parametrize("metric", METRICS, ids=name_of)
def test_name_shows_changed_options_and_can_be_typed_again(metric: type[Metric]) -> None:
    changed = {"truth_ratio": {"variant": "geometric"}, "forget_quality": {"variant": "legacy"},
               "rouge_l": {"measure": "f1", "stemmer": False}, "mia.min_k": {"k": 0.2},
               "mia.min_k_pp": {"k": 0.2}, "privleak": {"attack": "loss"}}.get(metric.card.name, {})
    made, split = metric(**changed), "retain" if metric.card.per_split else None
    typed, of = parse_metric(made.label(split))
    assert (type(typed), typed.spec, of) == (metric, made.spec, split)
    assert ("(" in made.label(split)) == bool(changed)
