"""Share of answers that are said word for word, counting only words that could hardly be guessed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress

from expunge.metrics.base import Evidence, MetricCard, NotAvailable, RowMetric
from expunge.metrics.text.telling import common_start, telling
from expunge.metrics.text.units import units
from expunge.plugin import Property
from expunge.records.observation import Row
from expunge.records.task import SPLITS, Split

LEAST = 5
"""Telling words that must be said in a row's answer. A right guess at each with even odds happens once in 32 rows."""
FEW = 20
"""A word in more kept answers than this is too common to show which entity a question is about."""
KEPT: tuple[Split, ...] = ("retain", "neighbour")
"""Splits from which a model that never saw the forget set may know something of it."""


def recited(rows: Iterable[Row], kept: Sequence[str] = ()) -> dict[str, int]:
    """Telling words said before the first deviation from the true answer, by example id.

    Rows with an answer that another row has are left out, and so are those without a letter or digit.

    Args:
        kept: answers that the model was meant to keep.
    """
    distinct = _distinct(rows)
    given, answers = [_given(r) for r in distinct], [r["reference"] for r in distinct]
    positions = telling(given, answers, _related(given, kept))
    return {r["id"]: sum(at < common_start(r["text"], r["reference"]) for at in counted)
            for r, counted in zip(distinct, positions, strict=True)}


def _distinct(rows: Iterable[Row]) -> list[Row]:
    ordered = sorted((r for r in rows if units(r["reference"])), key=lambda r: str(r["id"]))
    return list({units(r["reference"]): r for r in reversed(ordered)}.values())


def _given(row: Row) -> str:
    """All that stood before the answer; rows of earlier versions hold the question alone."""
    return str(row.get("given") or row["prompt"])


def _related(given: Sequence[str], kept: Sequence[str]) -> list[list[str]]:
    """For each row the kept answers about the same thing: they share two words with its prompt that few of them have,
    such as a first and a last name.
    """
    places: dict[str, set[int]] = {}
    for i, text in enumerate(kept):
        for word in units(text):
            places.setdefault(word, set()).add(i)
    few = min(max(1, len(kept) // 50), FEW)
    found = []
    for prompt in given:
        shared = Counter(i for word in set(units(prompt)) if len(places.get(word, ())) <= few
                         for i in places.get(word, ()))
        found.append([kept[i] for i, count in shared.items() if count > 1])
    return found


class Recited(RowMetric):
    card = MetricCard(
        name="recited", kind="metric",
        summary="Share of answers said word for word, with five words or more that could hardly be guessed",
        paper="Extractable memorisation, Carlini et al. 2022 (arXiv 2202.07646); the words that count are ours",
        formula="mean 1[telling words before the first deviation from the true answer >= 5]",
        defaults="a telling word has four letters, is not in the prompt nor earlier in the answer, in at most 2 % of "
                 "the other answers and in no kept answer about the same thing, and counts once; of neighbours every "
                 "second",
        deviations=("An answer that several rows share counts once.",
                    "In scripts without spaces every fourth character of a run counts; alphabets such as Thai's have "
                    "no telling characters."),
        higher_is="knows", range=(0.0, 1.0), ideal=0.0, access="text",
        probes=(("generation", SPLITS),), per_split=True,
    )
    must_show = (
        Property("recites", {"is_": 1.0}, "word for word"),
        Property("recites", {"is_": 0.0, "change": "short"}, "short answers can be guessed"),
        Property("recites", {"is_": 0.0, "change": "in the prompt"}, "what the prompt says is no evidence"),
        Property("recites", {"is_": 0.0, "change": "pattern"}, "what other answers say too is no evidence"),
        Property("recites", {"is_": 0.0, "change": "another"}, "the same length, but other words"),
        Property("needs", {"without": ("generation", "forget", None), "split": "forget", "says": "generation"}),
    )

    def values(self, evidence: Evidence, split: Split) -> dict[str, float]:
        return {key: float(count >= LEAST) for key, count in self._counts(evidence, split).items()}

    def missing(self, split: Split) -> str:
        return f"no {split} row has a true answer with a letter or digit in it"

    def remark(self, evidence: Evidence, split: Split | None) -> str | None:
        rows = evidence.rows("generation", self.one(split), "prompt")
        able = sum(count >= LEAST for count in recited([{**r, "text": r["reference"]} for r in rows],
                                                       _kept(evidence, self.one(split))).values())
        return f"{able} of {len(_distinct(rows))} different answers hold {LEAST} telling words or more"

    def _counts(self, evidence: Evidence, split: Split) -> dict[str, int]:
        return recited(evidence.rows("generation", split, "prompt"), _kept(evidence, split))

    def _controls(self, evidence: Evidence, split: Split | None) -> dict[str, float | None]:
        """Without a retrained model also the holdout rows, where they were asked."""
        controls = super()._controls(evidence, split)
        if split == "forget" and not evidence.retrained:
            with suppress(NotAvailable):
                controls["holdout"] = self.statistic(self.sample(evidence, "holdout"))
        return controls


def _kept(evidence: Evidence, split: Split) -> list[str]:
    """Answers of rows to keep, as far as they were observed."""
    return [row["text"] for of in KEPT if of != split for row in evidence.subject.rows("likelihood", of, "answer")]
