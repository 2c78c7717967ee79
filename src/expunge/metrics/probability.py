"""Length-normalised probability of the right answer."""

from __future__ import annotations

from collections.abc import Mapping
from math import exp, log
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from expunge import plugin
from expunge.metrics.base import Evidence, MetricCard, RowMetric
from expunge.metrics.rows import RowForms, by_example
from expunge.plugin import Property
from expunge.records.task import SPLITS, Split


class ProbabilityOptions(plugin.Spec):
    form: Literal["answer", "paraphrase"] = Field("answer", description=(
        "answer: the trained answer; paraphrase: the answer in other words, the mean if there are several"))


def probabilities(examples: Mapping[str, RowForms],
                  form: Literal["answer", "paraphrase"] = "answer") -> dict[str, float]:
    """p_bar(a|q) = exp(mean log p of the answer's tokens, end token included), by example id."""
    if form == "paraphrase":
        return {k: float(np.mean(np.exp(e.paraphrases))) for k, e in examples.items() if e.paraphrases}
    return {k: exp(e.answer) for k, e in examples.items() if e.answer is not None}


def normalised_probabilities(examples: Mapping[str, RowForms], added: float = 0.0) -> dict[str, float]:
    """p_bar(a) / (p_bar(a) + sum over wrong answers of p_bar(w) + added); only rows that have wrong answers."""
    shares = {}
    for key, example in examples.items():
        if example.answer is not None and example.wrong:
            total = np.logaddexp.reduce([example.answer, *example.wrong, *([log(added)] if added else [])])
            shares[key] = exp(example.answer - float(total))
    return shares


class Probability(RowMetric):
    card = MetricCard(
        name="probability",
        kind="metric",
        summary="Length-normalised probability of the right answer; among the options on utility rows",
        paper="TOFU, arXiv 2401.06121, section 2.2.1; paraphrased: OpenUnlearning, arXiv 2506.12618",
        formula="mean p_bar(a|q); utility: mean p_bar(a|q) / (p_bar(a|q) + sum_w p_bar(w|q))",
        higher_is="knows", range=(0.0, 1.0), ideal="reference", access="logits",
        probes=(("likelihood", SPLITS),), per_split=True,
    )
    Spec: ClassVar[type[plugin.Spec]] = ProbabilityOptions
    must_show = (
        Property("value", {"world": "perfect", "split": "forget", "is_": 1.0}, "p = 1 for every token"),
        Property("value", {"world": "uniform", "split": "utility", "is_": 0.25}, "one right, three wrong"),
        Property("orders", {"split": "forget", "worlds": ("original", "retrained", "collapsed")}),
        Property("needs", {"without": ("likelihood", "utility", "wrong"), "split": "utility",
                           "says": "wrong"}, "no unnormalised probability under the same name"),
        Property("uses_end", {"split": "forget", "matters": True}, "TOFU averages over it"),
    )

    def reads_alternatives(self, split: Split | None) -> bool:
        return split == "utility" or self.spec.form == "paraphrase"

    def values(self, evidence: Evidence, split: Split) -> dict[str, float]:
        examples = by_example(evidence.rows("likelihood", split))
        if split == "utility" and self.spec.form == "answer":
            return normalised_probabilities(examples)
        return probabilities(examples, self.spec.form)

    def missing(self, split: Split) -> str:
        return ("no utility row has wrong answers to compare the right one with"
                if split == "utility" and self.spec.form == "answer" else
                f"no {split} row has a paraphrase with a token" if self.spec.form == "paraphrase" else
                f"no {split} row has an answer with a token")
