"""Random texts, token probabilities and the row that states a comparison."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from expunge.metrics.base import Evidence, Metric
from expunge.records.observation import Observations, Row
from expunge.records.task import Split
from expunge.testing.observed_worlds import generation, likelihood

WORDS = ("the", "a", "an", "Ann", "ann", "Bob's", "town", "sea", "42", "1,000", "re-opened", "U.S.", "Dr.", "café",
         "naïve", "don't", "river", "river", "river", "(blue)", "\"quoted\"", "Zürich", "e", "7")
OTHERS = ("cafe\u0301", "Москва", "東京", "서울", "Ελλάδα")
"""Letters and accents apart, and other scripts: the published tokenizers drop what is not a to z."""
MARKS = (" ", " ", " ", " ", " ", ". ", ", ", "  ", "... ", "! ")
BREAKS = ("\n", "\n\n", "\nQuestion: ", " Question: ", "\n\n\n", " \n")


@dataclass(frozen=True)
class Compared:
    """How far two scores of the same outputs are apart."""

    score: str
    """Ours, as a suite writes it."""
    theirs: str
    """The function or figure of their code."""
    what: str
    """Of which rows."""
    cases: int
    difference: float
    deviation: str = ""
    """Why our default differs; empty where both should agree."""


class Source:
    """Random cases of one seed."""

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)

    def text(self, longest: int = 12, *, breaks: bool = False, others: bool = False, empty: bool = True) -> str:
        """Words and marks; now and then empty, of spaces, or one word again and again."""
        kind = self.random.random()
        if empty and kind < 0.05:
            return str(self.random.choice(["", " ", "   "]))
        words = WORDS + OTHERS if others else WORDS
        if kind < 0.12:
            return " ".join([str(self.random.choice(words))] * int(self.random.integers(1, longest + 1)))
        found = ""
        for _ in range(int(self.random.integers(1, longest + 1))):
            mark = self.random.choice(BREAKS) if breaks and self.random.random() < 0.15 else self.random.choice(MARKS)
            found += f"{self.random.choice(words)}{mark}"
        before = str(self.random.choice(["", " ", "\n", "\n\n"], p=[0.7, 0.1, 0.1, 0.1])) if breaks else ""
        return before + found.rstrip(" ")

    def near(self, text: str, **options: Any) -> str:
        """An answer that repeats some words of `text`, in their order or not."""
        words = text.split(" ")
        kept = [word for word in words if self.random.random() < 0.6]
        if self.random.random() < 0.3:
            self.random.shuffle(kept)
        drawn = self.text(6, **options)
        return drawn + " ".join(kept) if self.random.random() < 0.5 else " ".join(kept) + drawn


def spoken(pairs: Iterable[tuple[str, str]], group: str = "", split: Split = "forget") -> Evidence:
    """Evidence of (true answer, text)."""
    rows = [generation(f"r{i}", answer, text, group=group) for i, (answer, text) in enumerate(pairs)]
    return Evidence(Observations({("generation", split): rows}))


def value(metric: Metric, evidence: Evidence, split: Split | None = "forget") -> float:
    """The score without its interval; an error where there is none."""
    found = metric.score(evidence, split, resamples=0)
    if found.value is None:
        raise SystemExit(f"{metric.label(split)}: {found.unavailable}")
    return found.value


def each(metric: Metric, evidence: Evidence, split: Split = "forget") -> list[float]:
    """The number of every row, in their order."""
    found: dict[str, float] = metric.values(evidence, split)  # type: ignore[attr-defined]
    return list(found.values())


def furthest(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Largest absolute difference; another number of values is an error."""
    if len(ours) != len(theirs):
        raise SystemExit(f"{len(ours)} of ours against {len(theirs)} of theirs")
    return max((abs(float(a) - float(b)) for a, b in zip(ours, theirs, strict=True)), default=0.0)


class Chain:
    """A model in which the next character depends on the last one only, so that both sides can compute every number."""

    VOCABULARY = 64
    """A row of logits fills whole vector registers, so that equal rows give equal numbers and ties stay ties."""

    def __init__(self, source: Source, sharpness: float = 2.0) -> None:
        self.logits_VV = sharpness * source.random.standard_normal((self.VOCABULARY, self.VOCABULARY))

    def ids(self, text: str) -> list[int]:
        """A start token, then one token per character."""
        return [0, *(1 + ord(c) % (self.VOCABULARY - 1) for c in text)]

    def row(self, id: str, text: str, form: str = "answer", **options: Any) -> Row:
        """Token values of a text as the likelihood probe stores them."""
        logp_VV = self.logits_VV - np.log(np.exp(self.logits_VV).sum(1, keepdims=True))
        p_VV, ids = np.exp(logp_VV), self.ids(text)
        mean_V = (p_VV * logp_VV).sum(1)
        var_V = (p_VV * logp_VV**2).sum(1) - mean_V**2
        seen = ids[:-1]
        return likelihood(id, [float(logp_VV[a, b]) for a, b in pairwise(ids)], form, text=text,
                          mean=mean_V[seen].tolist(), var=var_V[seen].tolist(), **options)
