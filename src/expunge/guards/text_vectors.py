"""Texts as vectors without a model: hashed words, word pairs and letter triples, weighted by rarity.

Legend: N texts, D size of a vector.
"""

from __future__ import annotations

import re
import unicodedata
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from expunge.guards.arrays import packed, unpacked

SIZE = 4096
TEMPLATE = frozenset({"question", "answer", "assistant", "user", "system"})
"""Words of templates, which say nothing of what is asked."""
Floats = NDArray[np.float32]


def words(text: str) -> list[str]:
    """Its words without case and accents, those of templates left out."""
    plain = unicodedata.normalize("NFKD", unicodedata.normalize("NFKC", text).casefold())
    kept = "".join(c for c in plain if not unicodedata.combining(c))
    return [word for word in re.findall(r"\w+", kept) if word not in TEMPLATE]


def features(text: str) -> Iterator[str]:
    """Words, pairs of neighbours, and triples of letters with the ends of words marked."""
    said = words(text)
    yield from said
    yield from (f"{a} {b}" for a, b in pairwise(said))
    for word in said:
        marked = f"<{word}>"
        yield from (marked[i: i + 3] for i in range(len(marked) - 2))


def pieces(text: str) -> list[str]:
    """The whole, and each of its lines: a question late in a conversation counts as if it stood alone."""
    lines = [line for line in text.splitlines() if words(line)]
    return [text, *lines] if len(lines) > 1 else [text]


@dataclass(frozen=True, eq=False)
class TextVectors:
    """Makes vectors of length 1; `rarity_D` is log((1 + texts) / (1 + texts with the feature)) + 1."""

    rarity_D: Floats

    @classmethod
    def fit(cls, texts: Sequence[str], size: int = SIZE) -> TextVectors:
        """With the rarity of every feature in these texts."""
        seen_D = np.zeros(size, dtype=np.float32)
        for text in texts:
            seen_D[list({zlib.crc32(f.encode()) % size for f in features(text)})] += 1
        return cls(np.log((1 + len(texts)) / (1 + seen_D)).astype(np.float32) + np.float32(1))

    def __call__(self, texts: Sequence[str]) -> Floats:
        """Shape N D; a text without a word is 0."""
        size = len(self.rarity_D)
        found_ND = np.zeros((len(texts), size), dtype=np.float32)
        for row_D, text in zip(found_ND, texts, strict=True):
            for place, count in Counter(zlib.crc32(f.encode()) % size for f in features(text)).items():
                row_D[place] = (1 + np.log(count)) * self.rarity_D[place]
        norms_N1 = np.linalg.norm(found_ND, axis=1, keepdims=True)
        return (found_ND / np.where(norms_N1 > 0, norms_N1, 1)).astype(np.float32)

    def to_json(self) -> dict[str, Any]:
        return {"rarity": packed(self.rarity_D)}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> TextVectors:
        return cls(unpacked(data["rarity"]))
