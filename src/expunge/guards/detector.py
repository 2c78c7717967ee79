"""Detectors: does a question ask for what is to be forgotten? Each gives a score, and fires from a threshold on.

Legend: N texts, D size of a vector.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from expunge.guards.arrays import packed, unpacked
from expunge.guards.text_vectors import Floats, TextVectors, pieces
from expunge.records.task import Example, Task
from expunge.seeding import stream

FOLDS = 5
MOST = 2000
"""Questions of either kind that a detector learns from."""
NOTHING_ASKED = ("What is the capital of France?", "How do I boil an egg?", "Write a short poem about rain.",
                 "Which planet is the largest?", "Explain photosynthesis in one sentence.", "What is two plus two?",
                 "Translate good morning into Spanish.", "Who painted the Mona Lisa?", "Name three kinds of cheese.",
                 "How far away is the moon?", "What does a carburettor do?", "Suggest a name for a cat.")
"""Unrelated questions, beside the retain rows or in place of them."""


READS = ("the detector reads the prompt up to the end of the template, so the beginning of an answer that is given as "
         "part of a prompt passes it")
"""On the card of every guard with a detector."""
WORDINGS = ("uncertain: how many rewordings it finds. The threshold that 1 % of other questions reach found none of "
            "the reworded and translated questions in our measurement")
ROOM = ("a row whose guard stays silent gets less room near the end of the context: tokens are kept free for examples "
        "or items")


@dataclass(frozen=True)
class Finding:
    """What a detector says of one question: whether it fired, how sure it is, and which stored item is nearest."""

    fired: bool
    score: float
    item: int = -1


def questions(rows: Sequence[Example], paraphrases: bool = True) -> list[str]:
    """What rows ask, also in other words; running text stands for itself."""
    said = (text for row in rows
            for text in ((row.prompt or row.answer), *(row.paraphrased_prompts if paraphrases else ())))
    return list(dict.fromkeys(text for text in said if text.strip()))


def asked(task: Task, seed: int) -> tuple[list[str], list[str]]:
    """Questions to detect, and others: those of the retain rows and a few that are about nothing here."""
    found = questions(task.forget)
    known = set(found)
    other = [text for text in questions(task.retain) if text not in known]
    for name, texts in (("forget", found), ("other", other)):
        if len(texts) > MOST:
            stream(seed, "guard", name).shuffle(texts)
            del texts[MOST:]
    return found, [*other, *(text for text in NOTHING_ASKED if text not in known)]


def calibrated(scores: Sequence[float], rate: float) -> float:
    """The least threshold that at most this share of the scores reaches."""
    order = sorted(scores, reverse=True)
    return math.nextafter(order[math.floor(rate * len(order))], math.inf) if order and rate < 1 else -math.inf


def auc(positive: Sequence[float], negative: Sequence[float]) -> float:
    """Probability that a positive scores above a negative, ties counted half."""
    higher = sum((p > n) + 0.5 * (p == n) for p in positive for n in negative)
    return higher / (len(positive) * len(negative))


def fit_logistic(x_ND: Floats, y_N: Floats, decay: float = 1e-3, steps: int = 150) -> tuple[Floats, float]:
    """Weights and bias of least class-weighted cross-entropy, by accelerated gradient steps; rows have length 1."""
    weight_N = np.where(y_N > 0, 0.5 / max(y_N.sum(), 1), 0.5 / max((1 - y_N).sum(), 1)).astype(np.float64)
    used_D, found_D = x_ND.any(0), np.zeros(x_ND.shape[1], np.float32)
    x_ND = np.concatenate([x_ND[:, used_D], np.ones((len(x_ND), 1), np.float32)], 1).astype(np.float64)
    w_D = before_D = np.zeros(x_ND.shape[1])
    for step in range(steps):  # rows of length sqrt(2) and weights that sum to 1: the gradient is 1/2-Lipschitz
        ahead_D = w_D + step / (step + 3) * (w_D - before_D)
        p_N = 1 / (1 + np.exp(-(x_ND @ ahead_D)))
        slope_D = x_ND.T @ (weight_N * (p_N - y_N)) + decay * ahead_D
        before_D, w_D = w_D, ahead_D - slope_D / (0.5 + decay)
    found_D[used_D] = w_D[:-1].astype(np.float32)
    return found_D, float(w_D[-1])


@dataclass(frozen=True, eq=False)
class Detector:
    """A logistic classifier of the words of a question.

    Args:
        vectors: from text to vector.
        weight_D, bias: of the classifier.
        threshold: fires where the probability is at least this.
    """

    vectors: TextVectors
    weight_D: Floats
    bias: float
    threshold: float

    @classmethod
    def fit(cls, positive: Sequence[str], negative: Sequence[str], rate: float, least: float = 0.5) -> Detector:
        """Trained on all questions; the threshold is set on questions that a classifier was not trained on.

        Args:
            rate: the share of other questions that may fire; classifiers of `FOLDS` parts measure it.
            least: the threshold is at least this.
        """
        vectors = TextVectors.fit([*positive, *negative])
        x_ND = vectors([*positive, *negative])
        y_N = np.array([1] * len(positive) + [0] * len(negative), np.float32)
        part_N = np.concatenate([np.arange(len(positive)), np.arange(len(negative))]) % FOLDS
        unseen: list[float] = []
        for part in range(FOLDS):
            held_N = (part_N == part) & (y_N == 0)
            if held_N.any():
                weight_D, bias = fit_logistic(x_ND[part_N != part], y_N[part_N != part])
                unseen += [_sigmoid(float(z)) for z in x_ND[held_N] @ weight_D + bias]
        weight_D, bias = fit_logistic(x_ND, y_N)
        return cls(vectors, weight_D, bias, max(least, calibrated(unseen, rate)))

    def scores(self, texts: Sequence[str]) -> list[float]:
        return [max(_sigmoid(float(z)) for z in self.vectors(pieces(text)) @ self.weight_D + self.bias)
                for text in texts]

    def __call__(self, text: str) -> Finding:
        score = self.scores([text])[0]
        return Finding(score >= self.threshold, score)

    def to_json(self) -> dict[str, Any]:
        return {"vectors": self.vectors.to_json(), "weight": packed(self.weight_D), "bias": self.bias,
                "threshold": self.threshold}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Detector:
        return cls(TextVectors.from_json(data["vectors"]), unpacked(data["weight"]), data["bias"], data["threshold"])


@dataclass(frozen=True, eq=False)
class Nearest:
    """The stored question that is most like the one asked, by the cosine of their vectors.

    Args:
        items_ND: vectors of the stored questions; several may belong to one item.
        item_N: the item of each.
        threshold: fires where the cosine is at least this.
    """

    vectors: TextVectors
    items_ND: Floats
    item_N: tuple[int, ...]
    threshold: float

    @classmethod
    def fit(cls, items: Sequence[Sequence[str]], other: Sequence[str], threshold: float | None, rate: float) -> Nearest:
        """One entry per wording of every item. A threshold that is not given lets this share of others fire."""
        texts = [text for wordings in items for text in wordings]
        owner = tuple(i for i, wordings in enumerate(items) for _ in wordings)
        vectors = TextVectors.fit([*texts, *other])
        found = cls(vectors, vectors(texts), owner, 0.0)
        least = calibrated([found.best(text)[0] for text in other], rate) if threshold is None else threshold
        return cls(vectors, found.items_ND, owner, least)

    def best(self, text: str) -> tuple[float, int]:
        """The highest cosine and its item; (0, -1) with an empty store."""
        if not len(self.item_N):
            return 0.0, -1
        cosine_PN: NDArray[np.float32] = self.vectors(pieces(text)) @ self.items_ND.T
        place = int(cosine_PN.max(0).argmax())
        return float(cosine_PN.max()), self.item_N[place]

    def __call__(self, text: str) -> Finding:
        score, item = self.best(text)
        return Finding(item >= 0 and score >= self.threshold, score, item)

    def without(self, item: int) -> Nearest:
        """The same store without an item."""
        kept = [k for k, owner in enumerate(self.item_N) if owner != item]
        return Nearest(self.vectors, self.items_ND[kept], tuple(self.item_N[k] for k in kept), self.threshold)

    def to_json(self) -> dict[str, Any]:
        return {"vectors": self.vectors.to_json(), "items": packed(self.items_ND), "item": list(self.item_N),
                "threshold": self.threshold}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Nearest:
        return cls(TextVectors.from_json(data["vectors"]), unpacked(data["items"]), tuple(data["item"]),
                   data["threshold"])


def _sigmoid(z: float) -> float:
    return 1 / (1 + math.exp(-z)) if z >= 0 else math.exp(z) / (1 + math.exp(z))
