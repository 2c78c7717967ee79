"""RWKU's recall: the share of the true answer's different words that the first line repeats in their order."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from expunge import plugin
from expunge.metrics.base import GroupOptions, MetricCard
from expunge.metrics.repeated import RepeatedAnswer
from expunge.records.task import SPLITS, Split


def common_words(reference: list[str], text: list[str]) -> set[str]:
    """The different words of one longest common subsequence; of several, the one that the package `rouge` picks."""
    n, m = len(reference), len(text)
    length = [[0] * (m + 1) for _ in range(n + 1)]
    for i in range(n):
        for j in range(m):
            same = reference[i] == text[j]
            length[i + 1][j + 1] = length[i][j] + 1 if same else max(length[i][j + 1], length[i + 1][j])
    found, i, j = set(), n, m
    while i and j:
        if reference[i - 1] == text[j - 1]:
            found.add(reference[i - 1])
            i, j = i - 1, j - 1
        elif length[i - 1][j] > length[i][j - 1]:
            i -= 1
        else:
            j -= 1
    return found


def sentences(text: str) -> list[list[str]]:
    """Words between full stops, case and other punctuation kept; an empty sentence has one empty word."""
    return [" ".join(part.split()).split(" ") for part in text.split(".") if part]


def summary_recall(reference: str, text: str) -> float | None:
    """ROUGE-L recall at summary level: of the union of subsequences over all sentences, in different words.

    None when the reference has no sentence.
    """
    asked, said = sentences(reference), sentences(text)
    words = {word for sentence in asked for word in sentence}
    if not words:
        return None
    found: set[str] = set()
    for sentence in asked:
        for other in said:
            found |= common_words(sentence, other)
    return len(found) / len(words)


def first_line(text: str) -> str:
    return text.partition("\n")[0].strip()


class RwkuRecallOptions(GroupOptions):
    lines: Literal["first", "all"] = Field("first", description=(
        "first: the answer ends at the first line break; all: the whole text, for answers that RWKU's code generated"))


class RwkuRecall(RepeatedAnswer):
    card = MetricCard(
        name="rwku_recall", kind="metric",
        summary="Share of the true answer's words in the first line, counted as RWKU does",
        paper="RWKU, NeurIPS 2024 (arXiv 2406.10890)",
        formula="mean |union of LCS(ref sentence, sentence)| / |different words of ref|, case kept",
        defaults="RWKU: all rows weigh alike; its levels and types by group=level_1, group=level_3_role_play ...",
        deviations=("The answer ends at the first line break of the text; RWKU stops at the token of a line break, so "
                    "its texts go on where a token holds a full stop and a line break, or two of these (lines=all).",
                    "An answer of full stops alone counts 0; the package `rouge` refuses it.",
                    "Published values are 100 times as large."),
        higher_is="knows", range=(0.0, 1.0), ideal="reference", access="text",
        probes=(("generation", SPLITS),), per_split=True,
    )
    Spec: ClassVar[type[plugin.Spec]] = RwkuRecallOptions

    def repeated(self, reference: str, text: str) -> float | None:
        return summary_recall(reference, first_line(text) if self.spec.lines == "first" else text.strip())

    def missing(self, split: Split) -> str:
        return f"no {split} row has a true answer with a word in it"
