"""Raw evidence: what a model did on one example. Metrics read these rows and nothing else.

A likelihood row holds, for one (example, form) and every supervised token of the answer,
natural-log quantities rounded to 7 significant digits when they are made, so that scoring now
and re-scoring from disk see the same floats.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NotRequired, TypedDict

from expunge.records.base import read_json, read_jsonl, write_jsonl
from expunge.records.task import Split

Form = Literal["answer", "paraphrase", "wrong", "option"]


class LikelihoodRow(TypedDict):
    """One teacher-forced answer."""

    id: str
    entity: str
    group: str
    form: Form
    index: int
    """Which paraphrase, wrong answer or option; 0 for the answer itself."""
    correct: bool
    """True for the answer, its paraphrases and the right option."""
    text: str
    logp: list[float]
    """log p(token | prefix) per supervised token, the end tokens last."""
    mean: NotRequired[list[float]]
    """E_v[log p(v)] under the model at the same position (negative entropy); of answers only, like `var`."""
    var: NotRequired[list[float]]
    """Var_v[log p(v)] at the same position."""
    hit: list[bool]
    """Whether the token was the arg max."""
    end: int
    """How many trailing entries are end-of-turn tokens rather than text (0 or 1 mostly)."""


class GenerationRow(TypedDict):
    """One greedy answer to one prompt form."""

    id: str
    entity: str
    group: str
    form: Literal["prompt", "paraphrase"]
    index: int
    prompt: str
    given: NotRequired[str]
    """All text before the answer: every turn, or the first half of running text."""
    reference: str
    short: str
    """The bare fact in the reference; empty where the rows name none."""
    aliases: NotRequired[list[str]]
    """Other bare facts that are right too."""
    text: str
    stopped: bool
    """False when the token budget ran out before an end token."""


Row = Mapping[str, Any]
MISSING = "missing.json"
"""File beside the rows that says why a probe has none."""


class Observations:
    """All rows of one subject, by (probe, split). Immutable once built."""

    def __init__(self, rows: Mapping[tuple[str, Split], Sequence[Row]],
                 missing: Mapping[tuple[str, Split], str] | None = None) -> None:
        self._rows = {key: tuple(value) for key, value in rows.items()}
        self._missing = dict(missing or {})

    def missing(self, probe: str, split: Split) -> str:
        """Why a probe found nothing, as far as that is known."""
        return self._missing.get((probe, split), "")

    def rows(self, probe: str, split: Split, form: str | None = None) -> tuple[Row, ...]:
        """Rows of a probe on a split, of one form or of all; empty when never probed."""
        found = self._rows.get((probe, split), ())
        return found if form is None else tuple(r for r in found if r["form"] == form)

    def attempts(self) -> tuple[Observations, ...]:
        """One per attempt of an attack (rows with equal "attempt"); itself alone where there was none."""
        numbers = sorted({r.get("attempt", 0) for rows in self._rows.values() for r in rows})
        if len(numbers) < 2:
            return (self,)
        return tuple(Observations({key: [r for r in rows if r.get("attempt", 0) == n]
                                   for key, rows in self._rows.items()}) for n in numbers)

    def entities(self, split: Split) -> dict[str, str]:
        """Example id -> its entity, or the id itself for a row without one."""
        return {r["id"]: r["entity"] or r["id"]
                for (_, s), rows in self._rows.items() if s == split for r in rows}

    def of_group(self, split: Split, group: str) -> set[str]:
        """Ids of the examples of a group, or of a group below it: `level` has the rows of `level_1`."""
        return {r["id"] for (_, s), rows in self._rows.items() if s == split for r in rows
                if in_group(r.get("group", ""), group)}

    def ids(self) -> set[str]:
        """Every example that has a row."""
        return {r["id"] for rows in self._rows.values() for r in rows}

    def keys(self) -> tuple[tuple[str, Split], ...]:
        return tuple(self._rows)

    def write(self, folder: Path) -> None:
        for (probe, split), rows in self._rows.items():
            write_jsonl(folder / f"{probe}.{split}.jsonl", rows)

    @classmethod
    def read(cls, folder: Path) -> Observations:
        found: dict[tuple[str, Split], Sequence[Row]] = {}
        for path in sorted(folder.glob("*.jsonl")):
            probe, split = path.stem.rsplit(".", 1)
            found[probe, split] = tuple(map(_with_entity, read_jsonl(path)))  # type: ignore[index]
        path = folder / MISSING
        reasons = read_json(path) if path.exists() else {}
        return cls(found, {tuple(name.rsplit(".", 1)): why for name, why in reasons.items()})


def in_group(of_row: str, group: str) -> bool:
    """Whether a row of the group `of_row` belongs to `group`; an empty one has all rows."""
    return not group or of_row == group or of_row.startswith(f"{group}_")


def _with_entity(row: dict[str, Any]) -> Row:
    """The row with its field `entity`, which earlier versions called `subject`."""
    if "entity" in row or "subject" not in row:
        return row
    return {("entity" if key == "subject" else key): value for key, value in row.items()}
