"""Whether the model prefers wrong answers to the right one."""

from __future__ import annotations

from collections.abc import Mapping
from math import exp, expm1, log
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from expunge import plugin
from expunge.metrics.base import Evidence, MetricCard, RowMetric
from expunge.metrics.rows import RowForms, by_example
from expunge.plugin import Property
from expunge.records.score import Orientation
from expunge.records.task import SPLITS, Split

Variant = Literal["arithmetic", "legacy", "geometric"]
Aggregate = Literal["auto", "closer_to_1", "true_better", "prob_mean"]
LOG_EPSILON = log(1e-10)
"""log of the constant that OpenUnlearning adds to the denominator."""


class TruthRatioOptions(plugin.Spec):
    variant: Variant = Field("arithmetic", description=(
        "arithmetic: mean p_bar(wrong) / p_bar(right), the paper; legacy: the first code, right / geometric "
        "mean wrong (the inverse); geometric: OpenUnlearning, geometric mean wrong / (right + 1e-10)"))
    aggregate: Aggregate = Field("auto", description=(
        "closer_to_1: mean min(R, 1/R); true_better: mean max(0, 1 - R); prob_mean: mean right/(right + "
        "wrong); auto: closer_to_1 on forget, true_better elsewhere"))


def log_odds(example: RowForms, variant: Variant) -> tuple[float, float] | None:
    """(log wrong, log right) of one example; None when it has no wrong answer or no right one.

    Right is the paraphrased answer, or the plain one where there is no paraphrase. TOFU has one
    paraphrase; several are averaged like the wrong answers.
    """
    right = example.paraphrases or ([] if example.answer is None else [example.answer])
    if not right or not example.wrong:
        return None
    if variant == "arithmetic":
        return _log_mean_exp(example.wrong), _log_mean_exp(right)
    return float(np.mean(example.wrong)), float(np.mean(right))


def log_truth_ratios(examples: Mapping[str, RowForms], variant: Variant = "arithmetic") -> dict[str, float]:
    """log TR by example id; what forget quality compares. Kept as a logarithm, since TR overflows."""
    odds = {key: log_odds(example, variant) for key, example in examples.items()}
    return {key: _log_ratio(*pair, variant) for key, pair in odds.items() if pair is not None}


def truth_scores(examples: Mapping[str, RowForms], aggregate: Aggregate,
                 variant: Variant = "arithmetic") -> dict[str, float]:
    """One number in 0..1 by example id. R is wrong over right in every variant."""
    scores = {}
    for key, example in examples.items():
        if (pair := log_odds(example, variant)) is None:
            continue
        log_r = _log_ratio(*pair, variant) * (-1 if variant == "legacy" else 1)
        if aggregate == "closer_to_1":
            scores[key] = exp(-abs(log_r))
        elif aggregate == "true_better":
            scores[key] = -expm1(min(log_r, 0.0))
        else:
            total = [*pair, LOG_EPSILON] if variant == "geometric" else [*pair]
            scores[key] = exp(pair[1] - float(np.logaddexp.reduce(total)))
    return scores


def _log_ratio(wrong: float, right: float, variant: Variant) -> float:
    if variant == "legacy":
        return right - wrong
    return wrong - (float(np.logaddexp(right, LOG_EPSILON)) if variant == "geometric" else right)


def _log_mean_exp(values: list[float]) -> float:
    return float(np.logaddexp.reduce(values)) - log(len(values))


class TruthRatio(RowMetric):
    card = MetricCard(
        name="truth_ratio",
        kind="metric",
        summary="Probability of wrong answers over the right one, as a score in 0..1",
        paper="TOFU, arXiv 2401.06121, section 2.2.1; variants of OpenUnlearning, arXiv 2506.12618",
        formula="R = mean_w p_bar(w|q) / p_bar(a~|q); forget: mean min(R, 1/R); else: mean max(0, 1 - R)",
        needs=frozenset({"wrong_answers"}),
        alternatives=True, higher_is="knows", range=(0.0, 1.0), ideal="reference", access="logits",
        probes=(("likelihood", SPLITS),), per_split=True,
    )
    Spec: ClassVar[type[plugin.Spec]] = TruthRatioOptions
    must_show = (
        Property("value", {"world": "uniform", "split": "forget", "is_": 1.0}, "R = 1: no preference"),
        Property("value", {"world": "uniform", "split": "retain", "is_": 0.0}, "R = 1: truth not better"),
        Property("orders", {"split": "retain", "worlds": ("original", "collapsed")}),
        Property("needs", {"without": ("likelihood", "forget", "wrong"), "split": "forget", "says": "wrong"}),
    )

    def orientation(self, split: Split | None) -> Orientation:
        """min(R, 1/R) is low for a model that knows *and* for one that over-forgot: neutral."""
        return "neutral" if self._aggregate(split) == "closer_to_1" else "knows"

    def values(self, evidence: Evidence, split: Split) -> dict[str, float]:
        examples = by_example(evidence.rows("likelihood", split))
        return truth_scores(examples, self._aggregate(split), self.spec.variant)

    def missing(self, split: Split) -> str:
        return f"no {split} row has wrong answers"

    def _aggregate(self, split: Split | None) -> Aggregate:
        chosen: Aggregate = self.spec.aggregate
        return chosen if chosen != "auto" else "closer_to_1" if split == "forget" else "true_better"
