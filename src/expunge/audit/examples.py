"""Scores of single examples: the numbers that scores of an audit are means of, for every model and attack."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from pathlib import Path

from expunge.attacks.base import Attack
from expunge.audit.attacks import AttackResult
from expunge.audit.leak_shares import share_examples
from expunge.audit.suite import Suite
from expunge.metrics.base import Evidence, NotAvailable, RowMetric
from expunge.metrics.evaluate import MetricTerm, parse_metric
from expunge.needs import unmet
from expunge.records.examples import ExampleScore, write_examples
from expunge.records.observation import Observations
from expunge.records.task import Split


def keep_examples(folder: Path, suite: Suite, seen: Mapping[str, Observations], plain: Evidence,
                  attempted: Callable[[Attack, str, Split], AttackResult]) -> None:
    """Write the table of an audit.

    Args:
        seen: model -> its observations without attack.
        attempted: (attack, model, split) -> what came of it.
    """
    terms = {"": suite.metrics} | {label: a.asks for a in suite.attacks for label in a.labels}
    under: dict[str, Mapping[str, Observations]] = {"": seen}
    for attack in suite.attacks:
        results = {role: attempted(attack, role, "forget").found for role in seen}
        under |= {label: {role: found[label] for role, found in results.items() if label in found}
                  for label in attack.labels}
    write_examples(folder, chain(example_scores(terms, under, plain),
                                 share_examples(suite.attacks, attempted, plain, _counting(seen, plain),
                                                suite.metrics)))


def example_scores(terms: Mapping[str, tuple[str, ...]], seen: Mapping[str, Mapping[str, Observations]],
                   plain: Evidence) -> Iterator[ExampleScore]:
    """Every value of every score that is a mean over examples; other scores have no value of a single example.

    Args:
        terms: label of an attack ("" for none) -> the metric terms asked under it.
        seen: the same labels -> model -> its observations.
        plain: evidence without attack, for metrics that look at references.
    """
    for label, asked in terms.items():
        for metric, split in dict(_named(map(parse_metric, asked))).values():
            if split is None or not isinstance(metric, RowMetric) or unmet(metric.model_needs, plain.offered):
                continue
            for model, observed in seen.get(label, {}).items():
                entities = observed.entities(split)
                try:
                    values = metric.best(plain.of(observed), split)
                except NotAvailable:
                    continue
                for key, value in values.items():
                    yield {"score": metric.label(split), "attack": label, "model": model, "split": split, "id": key,
                           "entity": entities.get(key, key), "value": float(value)}


def _counting(seen: Mapping[str, Observations], plain: Evidence) -> list[str]:
    """The models that scores rest on: a control that was turned down is not among them."""
    kept = {id(one) for one in (plain.subject, plain.original, *plain.retrained)}
    return [model for model, observed in seen.items() if id(observed) in kept]


def _named(terms: Iterator[MetricTerm]) -> Iterator[tuple[str, MetricTerm]]:
    """By the name of the score, so that a term asked twice counts once."""
    for metric, split in terms:
        yield metric.label(split), (metric, split)
