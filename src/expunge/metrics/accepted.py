"""Whether an answer is one of several that are right."""

from __future__ import annotations

import re
import string
from collections import Counter
from typing import ClassVar, Literal

from pydantic import Field

from expunge import plugin
from expunge.metrics.base import Evidence, GroupOptions, MetricCard, RowMetric
from expunge.metrics.text.matching import contains
from expunge.metrics.text.units import units
from expunge.plugin import Property
from expunge.records.observation import Row
from expunge.records.task import SPLITS, Split

Measure = Literal["contains", "exact", "character", "f1"]
ARTICLES = re.compile(r"\b(a|an|the)\b")
CONCLUSION = re.compile(r"[tT]he answer is (.*?)\.")


class AcceptedOptions(GroupOptions):
    measure: Measure = Field("contains", description=(
        "contains: a right answer stands in the first line; exact: it is the whole text; character: the whole text is "
        "one character of the first right answer, as RWKU's code counts reasoning; f1: words that the whole text and a "
        "right answer have in common, as SQuAD counts"))
    reasoned: bool = Field(False, description=(
        "judge what stands between 'the answer is' and the next full stop, where a model reasons first"))


def normalised(text: str) -> str:
    """SQuAD: without case, punctuation, articles and double spaces."""
    plain = "".join(c for c in text.lower() if c not in string.punctuation)
    return " ".join(ARTICLES.sub(" ", plain).split())


def token_f1(answer: str, text: str) -> float:
    """Harmonic mean of the shares of common words, each counted as often as both have it."""
    asked, said = normalised(answer).split(), normalised(text).split()
    if not asked or not said:
        return float(asked == said)
    common = (Counter(asked) & Counter(said)).total()
    return 2 * common / (len(asked) + len(said)) if common else 0.0


def concluded(text: str) -> str:
    """What stands after the first 'the answer is', or the whole text."""
    found = CONCLUSION.search(text)
    return found[1].strip() if found else text.strip()


def accepted(row: Row, measure: Measure = "contains", reasoned: bool = False) -> float:
    """The best over all right answers."""
    said, right = row["text"].strip(), [row["short"] or row["reference"], *row.get("aliases", ())]
    if reasoned and not (said := concluded(said)):
        return 0.0  # a conclusion of nothing is no answer, although "(A)" without article and marks is empty too
    if measure == "contains":
        line = said.partition("\n")[0]
        return float(any(contains(line, one, one) for one in right if units(one)))
    if measure == "character":
        right = list(right[0])
    if measure in ("exact", "character"):
        return float(any(normalised(said) == normalised(one) for one in right))
    return max(token_f1(one, said) for one in right)


class Accepted(RowMetric):
    card = MetricCard(
        name="accepted", kind="metric",
        summary="Share of answers whose first line has one of the right answers in it",
        paper="RESTOR, TMLR 2025 (arXiv 2411.00204); exact match and F1: SQuAD (arXiv 1606.05250)",
        formula="mean 1[some right answer in the first line]; f1: mean max over right answers of F1",
        defaults="contains; RWKU's factuality: measure=f1, its reasoning: measure=exact, reasoned=True",
        deviations=("RESTOR asks a model to judge, which accepts more: a right answer in other words counts as wrong "
                    "here.", "RESTOR samples three answers; ours is greedy. It rounds the accuracy of each person to "
                    "0.01 per cent before it takes the mean, and reads "
                    "the line after the first character; blank lines before an answer are skipped here.",
                    "RWKU's code takes each character of the right answer of a reasoning question for a right answer: "
                    "'(B)' and '7' can be met, 'yes' and '42' cannot. Its published figures are measure=character, "
                    "reasoned=True."),
        higher_is="knows", range=(0.0, 1.0), ideal="reference", access="text",
        probes=(("generation", SPLITS),), per_split=True,
    )
    Spec: ClassVar[type[plugin.Spec]] = AcceptedOptions
    must_show = (
        Property("value", {"world": "perfect", "split": "forget", "is_": 1.0}, "always right"),
        Property("value", {"world": "collapsed", "split": "forget", "is_": 0.0}, "an empty answer"),
        Property("orders", {"split": "forget", "worlds": ("original", "retrained")}),
        Property("needs", {"without": ("generation", "forget", None), "split": "forget", "says": "generation"}),
    )

    def values(self, evidence: Evidence, split: Split) -> dict[str, float]:
        return {r["id"]: accepted(r, self.spec.measure, self.spec.reasoned)
                for r in evidence.rows("generation", split, "prompt") if units(r["short"] or r["reference"])}

    def missing(self, split: Split) -> str:
        return f"no {split} row has a right answer with a letter or digit in it"
