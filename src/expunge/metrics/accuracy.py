"""Multiple choice by likelihood."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import ClassVar, Literal

from pydantic import Field

from expunge import plugin
from expunge.metrics.base import Evidence, GroupOptions, MetricCard, RowMetric
from expunge.metrics.rows import RowForms, by_example, mean_logp, text_values
from expunge.plugin import Property
from expunge.records.observation import Row
from expunge.records.task import SPLITS, Split

By = Literal["mean", "text", "sum"]


class AccuracyOptions(GroupOptions):
    by: By = Field("mean", description=(
        "how options are compared: mean log p with the end token; text: mean without it, as for a letter; sum: their "
        "whole log p without it, as TruthfulQA does"))


def text_mean(row: Row) -> float | None:
    """Mean log p of the option without its end token."""
    values = text_values(row, "logp")
    return float(values.mean()) if len(values) else None


def text_sum(row: Row) -> float | None:
    """log p of the whole option without its end token."""
    values = text_values(row, "logp")
    return float(values.sum()) if len(values) else None


COMPARED: Mapping[By, Callable[[Row], float | None]] = {"mean": mean_logp, "text": text_mean, "sum": text_sum}


def choices(examples: Mapping[str, RowForms]) -> dict[str, float]:
    """1 where the right option is the likeliest, by example id; a tie of m options counts 1/m.

    Sharing ties keeps a model without any preference at chance, whatever the order of options.
    Rows with fewer than two options, or without a right one, are left out.
    """
    scores = {}
    for key, example in examples.items():
        if len(example.options) > 1 and any(right for _, right in example.options):
            top = max(value for value, _ in example.options)
            best = [right for value, right in example.options if value == top]
            scores[key] = sum(best) / len(best)
    return scores


class Accuracy(RowMetric):
    card = MetricCard(
        name="accuracy",
        kind="metric",
        summary="Share of multiple-choice rows whose right option is the likeliest",
        paper="Cloze form of WMDP, arXiv 2403.03218",
        formula="mean 1[argmax_o p_bar(o|q) is the right option]",
        defaults="mean log p of the text. Letters (MMLU, WMDP): by=text on rows whose options are letters; "
                 "TruthfulQA's MC1: by=sum",
        deviations=("Options are compared by the probability of their text, not of a letter.",
                    "A tie of m options counts 1/m; in RWKU's code it is wrong for MC1, the first option for MMLU."),
        alternatives=True, higher_is="knows", range=(0.0, 1.0), ideal="reference", access="logits",
        probes=(("likelihood", SPLITS),), per_split=True,
    )
    Spec: ClassVar[type[plugin.Spec]] = AccuracyOptions
    must_show = (
        Property("value", {"world": "perfect", "split": "forget", "is_": 1.0}, "always right"),
        Property("value", {"world": "uniform", "split": "forget", "is_": 0.25}, "chance of four"),
        Property("needs", {"without": ("likelihood", "forget", "option"), "split": "forget",
                           "says": "option"}),
    )

    def values(self, evidence: Evidence, split: Split) -> dict[str, float]:
        return choices(by_example(evidence.rows("likelihood", split, "option"), COMPARED[self.spec.by]))

    def missing(self, split: Split) -> str:
        return f"no {split} row has two options and a right one"
