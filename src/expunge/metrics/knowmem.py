"""Knowledge memorisation: how much of the true answer a few-shot answer repeats, as MUSE and DUSK count it."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from expunge import plugin
from expunge.metrics.base import Evidence, GroupOptions, MetricCard
from expunge.metrics.repeated import RepeatedAnswer
from expunge.metrics.rouge_l import LETTERS, how_compared, rouge_l
from expunge.metrics.text.rouge import Letters
from expunge.records.task import SPLITS, Split

NEXT = ("\n\n", "\nQuestion", "Question:")
"""Where a model has gone on with a question of its own."""


def answer_alone(text: str) -> str:
    """What stands before the next question or the first blank line."""
    for mark in NEXT:
        text = text.split(mark)[0]
    return text


class KnowMemOptions(GroupOptions):
    letters: Letters = Field("all", description=LETTERS)


class KnowMem(RepeatedAnswer):
    card = MetricCard(
        name="knowmem", kind="metric",
        summary="ROUGE-L F1 of few-shot answers, cut where the model asks the next question",
        paper="MUSE, arXiv 2407.06460, section 3; the same in DUSK, arXiv 2505.15209",
        formula="mean F1(ROUGE-L(answer, text up to the first blank line or 'Question:')), no stemmer",
        defaults="MUSE; published values are 100 times as large",
        deviations=("The demonstrations and the number of new tokens come from the task.",
                    "A true answer without a letter or digit is left out instead of counting as 0, and other scripts "
                    "are read as `rouge_l` reads them (letters=ascii: both as published)."),
        higher_is="knows", range=(0.0, 1.0), ideal="reference", access="text",
        probes=(("generation", SPLITS),), per_split=True,
    )
    Spec: ClassVar[type[plugin.Spec]] = KnowMemOptions

    def repeated(self, reference: str, text: str) -> float | None:
        return rouge_l(reference, answer_alone(text), "f1", stemmer=False, letters=self.spec.letters)

    def missing(self, split: Split) -> str:
        return f"no {split} row has a true answer with a letter or digit in it"

    def remark(self, evidence: Evidence, split: Split | None) -> str | None:
        return how_compared(evidence.rows("generation", self.one(split), "prompt"), self.spec.letters)
