"""Rows that are the same, and rows that nearly are: what a plan counts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from math import ceil
from typing import NamedTuple

from expunge.metrics.text.units import units
from expunge.records.task import Example, Task

WORDS = 3
"""Length of a shingle."""
ALIKE = 0.8
"""Two rows are near-duplicates from this share of common shingles on: |A and B| / |A or B| (Jaccard; Broder 1997)."""


class RowCounts(NamedTuple):
    """How many rows of a task repeat another, and how many answers say nothing."""

    duplicates: dict[str, int]
    """Set -> rows that repeat an earlier one of the set."""
    near: tuple[tuple[str, str], ...]
    """(forget row, retain row) that say nearly the same; each forget row once."""
    empty: int
    """Rows of forget, retain and holdout whose answer is empty."""

    def notes(self) -> tuple[str, ...]:
        """For the plan; nothing where there is nothing to say."""
        told = [f"{count} {split} rows repeat an earlier row; each counts as often as it stands there."
                for split, count in self.duplicates.items() if count]
        if self.near:
            told.append(f"{len(self.near)} forget rows are near-duplicates of retain rows ({ALIKE:.0%} of their "
                        f"{WORDS}-word sequences are common), so what is kept may give away what is forgotten: first "
                        f"{self.near[0][0]} and {self.near[0][1]}.")
        if self.empty:
            told.append(f"{self.empty} rows have an empty answer.")
        return tuple(told)


def count_rows(task: Task) -> RowCounts:
    """The counts of a task's forget, retain and holdout rows."""
    sets = {"forget": task.forget, "retain": task.retain, "holdout": task.holdout}
    return RowCounts({split: len(rows) - len({row_key(row) for row in rows}) for split, rows in sets.items()},
                     tuple(near_duplicates(task.forget, task.retain)),
                     sum(not row.answer.strip() for rows in sets.values() for row in rows))


def row_key(row: Example) -> tuple[str, ...]:
    """What makes two rows the same: image, prompt (or all turns) and answer, without case and spacing of their text."""
    parts = [content for _, content in row.messages] or ([] if row.image else [row.prompt])
    image = (row.image.data,) if row.image else ()  # base64: another case is another image
    return (*image, *(" ".join(part.casefold().split()) for part in (*parts, row.answer)))


def near_duplicates(rows: Sequence[Example], others: Sequence[Example]) -> Iterable[tuple[str, str]]:
    """(id of a row, id of the most similar other row) for rows that are alike but not the same.

    Exact, and without comparing all pairs: two sets that have a share `ALIKE` in common also share one of their
    rarest shingles (prefix filtering, Chaudhuri et al. 2006), so only rows that share one are compared.
    """
    mine, theirs = [_shingles(row) for row in rows], [_shingles(row) for row in others]
    common = Counter(shingle for shingles in (*mine, *theirs) for shingle in shingles)

    def rarest(shingles: frozenset[str]) -> list[str]:
        kept = len(shingles) - ceil(ALIKE * len(shingles)) + 1
        return sorted(shingles, key=lambda s: (common[s], s))[:kept]

    places: dict[str, list[int]] = {}
    for i, shingles in enumerate(theirs):
        for shingle in rarest(shingles):
            places.setdefault(shingle, []).append(i)
    for row, shingles in zip(rows, mine, strict=True):
        found = [(len(shingles & theirs[i]) / len(shingles | theirs[i]), -i)
                 for i in {i for shingle in rarest(shingles) for i in places.get(shingle, ())}]
        found = [(alike, i) for alike, i in found if alike >= ALIKE and row_key(row) != row_key(others[-i])]
        if found:
            yield row.id, others[-max(found)[1]].id


def _shingles(row: Example) -> frozenset[str]:
    """All sequences of three units of a row: words, and characters of scripts without spaces."""
    said = " ".join(row_key(row)) if row.image is None else ""
    words = units(said)
    return frozenset(" ".join(words[i: i + WORDS]) for i in range(max(len(words) - WORDS + 1, min(len(words), 1))))
