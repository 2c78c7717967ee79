"""Fluency as RWKU measures it: how varied the pairs and triples of words of a long answer are."""

from __future__ import annotations

from collections import Counter
from math import log2
from typing import ClassVar

from expunge import plugin
from expunge.metrics.base import Evidence, GroupOptions, MetricCard, RowMetric
from expunge.plugin import Property
from expunge.records.task import SPLITS, Split

WEIGHTS = {2: 2 / 3, 3: 4 / 3}
"""Length of the run of words -> its weight."""


def words_of(text: str) -> list[str]:
    """Words and marks by the rules of the Penn Treebank."""
    from nltk.tokenize.destructive import NLTKWordTokenizer  # slow to import

    found: list[str] = NLTKWordTokenizer().tokenize(text)
    return found


def entropy(words: list[str], n: int) -> float:
    """Bits of the distribution of runs of n words; 0 of a text with none."""
    counts = Counter(zip(*(words[i:] for i in range(n)), strict=False))
    total = counts.total()
    return -sum(c / total * log2(c / total) for c in counts.values()) if total else 0.0


def ngram_entropy(text: str) -> float:
    """(2/3 H_2 + 4/3 H_3) / 2 in bits."""
    words = words_of(text)
    return sum(weight * entropy(words, n) for n, weight in WEIGHTS.items()) / len(WEIGHTS)


class NgramEntropy(RowMetric):
    card = MetricCard(
        name="ngram_entropy", kind="metric",
        summary="Weighted entropy of pairs and triples of words in long answers: low where a model repeats itself",
        paper="RWKU, NeurIPS 2024 (arXiv 2406.10890); ROME's fluency (arXiv 2202.05262)",
        formula="mean (2/3 H_2 + 4/3 H_3) / 2, H_n = -sum_g f(g) log2 f(g) over runs of n words",
        defaults="RWKU: 256 new tokens; its tables show 100 times the value",
        deviations=("Words are found by the Penn Treebank rules in the whole text; RWKU splits sentences first, by a "
                    "model that has to be downloaded, so that full stops within a text stand apart there.",),
        higher_is="neutral", range=None, ideal="reference", access="text",
        probes=(("generation", SPLITS),), per_split=True,
    )
    Spec: ClassVar[type[plugin.Spec]] = GroupOptions
    must_show = (
        Property("value", {"world": "collapsed", "split": "forget", "is_": 0.0}, "nothing is said"),
        Property("orders", {"split": "forget", "worlds": ("original", "collapsed")}),
        Property("needs", {"without": ("generation", "forget", None), "split": "forget", "says": "generation"}),
    )

    def values(self, evidence: Evidence, split: Split) -> dict[str, float]:
        return {r["id"]: ngram_entropy(r["text"]) for r in evidence.rows("generation", split, "prompt")}
