"""Parsing of metric terms such as `forget.probability` or `mia.min_k(k=0.2)`, and their scores."""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

from expunge import registry
from expunge.errors import UsageError, did_you_mean
from expunge.metrics.base import Evidence, Metric
from expunge.needs import ModelNeed, unmet
from expunge.records.score import Score
from expunge.records.task import SPLITS, Split
from expunge.terms import parse_call

MetricTerm = tuple[Metric, Split | None]


def parse_metric(term: str) -> MetricTerm:
    """The metric and the split a term names; raises UsageError with the nearest known name."""
    try:
        call = parse_call(term)
    except UsageError as error:
        raise UsageError(f"{term!r} is not a metric.", error.why,
                         "Write it like forget.probability or mia.min_k(k=0.2).") from None
    dotted, options = call.name, dict(call.options)
    first, _, rest = dotted.partition(".")
    split = first if first in SPLITS and rest else None
    if split is None and rest and _is_metric(rest) and not _is_metric(dotted):
        raise UsageError(f"There is no split called {first!r}.", did_you_mean(first, SPLITS))
    cls = cast(type[Metric], registry.find(rest if split else dotted, "metric").load())
    metric = cls(**options)
    metric.check_split(split)
    return metric, split


def required(metrics: Iterable[MetricTerm]) -> set[tuple[str, Split]]:
    """The (probe, split) pairs that must be observed to score all of them."""
    return {
        (probe, wanted)
        for metric, split in metrics
        for probe, splits in metric.card.probes
        for wanted in ((split,) if split else splits)
    }


def available(terms: Iterable[str], offered: Iterable[ModelNeed]) -> list[MetricTerm]:
    """Those metrics for which a model that offers this is enough."""
    return [term for term in map(parse_metric, terms) if not unmet(term[0].model_needs, offered)]


def with_alternatives(metrics: Iterable[MetricTerm]) -> set[Split]:
    """Splits for which paraphrases, wrong answers or options must be observed too."""
    return {
        wanted
        for metric, split in metrics
        for _, splits in metric.card.probes
        for wanted in ((split,) if split else splits)
        if metric.reads_alternatives(split)
    }


def score_all(terms: Iterable[str], evidence: Evidence, resamples: int = 1000, seed: int = 0,
              attack: str | None = None) -> tuple[Score, ...]:
    """One score per distinct term, in the order given. `attack` names the attack that the subject and its
    references went through before they were observed; None = no attack."""
    scores: dict[str, Score] = {}
    for metric, split in [parse_metric(term) for term in terms]:
        name = metric.label(split)
        if name not in scores:
            score = metric.score(evidence, split, resamples=resamples, seed=seed)
            scores[name] = score.model_copy(update={"attack": attack})
    return tuple(scores.values())


def _is_metric(name: str) -> bool:
    return any(entry.name == name for entry in registry.of_kind("metric"))
