"""Fluency as RWKU measures it: how varied the pairs and triples of words of a long answer are."""

from __future__ import annotations

from collections import Counter
from math import log2
from typing import ClassVar

from pydantic import Field

from expunge import plugin
from expunge.metrics.base import Evidence, GroupOptions, MetricCard, NotAvailable, RowMetric
from expunge.plugin import Property
from expunge.records.task import SPLITS, Split

WEIGHTS = {2: 2 / 3, 3: 4 / 3}
"""Length of the run of words -> its weight."""


class NgramEntropyOptions(GroupOptions):
    sentences: bool = Field(False, description=(
        "find words sentence by sentence, as RWKU does: needs the data of nltk (python -m nltk.downloader punkt_tab)"))


def words_of(text: str, sentences: bool = False) -> list[str]:
    """Words and marks by the rules of the Penn Treebank, of the whole text or of one sentence after the other.

    Raises:
        NotAvailable: sentences are asked for, and nltk has no data to find them.
    """
    if sentences:
        from nltk import word_tokenize

        try:
            return list(word_tokenize(text))
        except LookupError:
            raise NotAvailable("nltk has no data to find sentences: python -m nltk.downloader punkt_tab") from None
    from nltk.tokenize.destructive import NLTKWordTokenizer  # slow to import

    found: list[str] = NLTKWordTokenizer().tokenize(text)
    return found


def entropy(words: list[str], n: int) -> float:
    """Bits of the distribution of runs of n words; 0 of a text with none."""
    counts = Counter(zip(*(words[i:] for i in range(n)), strict=False))
    total = counts.total()
    return -sum(c / total * log2(c / total) for c in counts.values()) if total else 0.0


def ngram_entropy(text: str, sentences: bool = False) -> float:
    """(2/3 H_2 + 4/3 H_3) / 2 in bits."""
    words = words_of(text, sentences)
    return sum(weight * entropy(words, n) for n, weight in WEIGHTS.items()) / len(WEIGHTS)


class NgramEntropy(RowMetric):
    card = MetricCard(
        name="ngram_entropy", kind="metric",
        summary="Weighted entropy of pairs and triples of words in long answers: low where a model repeats itself",
        paper="RWKU, NeurIPS 2024 (arXiv 2406.10890); ROME's fluency (arXiv 2202.05262)",
        formula="mean (2/3 H_2 + 4/3 H_3) / 2, H_n = -sum_g f(g) log2 f(g) over runs of n words",
        defaults="RWKU: 256 new tokens; its tables show 100 times the value",
        deviations=("Words are found by the Penn Treebank rules in the whole text; RWKU splits sentences first, by a "
                    "model that has to be downloaded, so that full stops within a text stand apart there "
                    "(sentences=True).",),
        higher_is="neutral", range=None, ideal="reference", access="text",
        probes=(("generation", SPLITS),), per_split=True,
    )
    Spec: ClassVar[type[plugin.Spec]] = NgramEntropyOptions
    must_show = (
        Property("value", {"world": "collapsed", "split": "forget", "is_": 0.0}, "nothing is said"),
        Property("orders", {"split": "forget", "worlds": ("original", "collapsed")}),
        Property("needs", {"without": ("generation", "forget", None), "split": "forget", "says": "generation"}),
    )

    def values(self, evidence: Evidence, split: Split) -> dict[str, float]:
        return {r["id"]: ngram_entropy(r["text"], self.spec.sentences)
                for r in evidence.rows("generation", split, "prompt")}
