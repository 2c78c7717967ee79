"""What the `must_show` of a metric can ask for; `observed_worlds.py` describes the worlds."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest

from expunge import registry
from expunge.metrics.base import Evidence, Metric
from expunge.records.observation import Observations, Row
from expunge.records.task import Split

from ..observed_worlds import WORLDS, rows_of
from ..observed_worlds import world as build
from .base import check


def _score(metric: type[Metric], evidence: Evidence, split: Split | None) -> float:
    score = metric().score(evidence, split, resamples=20)
    assert score.value is not None, score.unavailable
    return score.value


@check
def value(metric: type[Metric], world: str, is_: float, split: Split | None = None) -> None:
    """Exactly this value (to 12 digits) in that world."""
    near(metric, world, is_, 1e-12, split)


@check
def near(metric: type[Metric], world: str, is_: float, within: float, split: Split | None = None) -> None:
    assert _score(metric, build(world), split) == pytest.approx(is_, abs=within)


@check
def orders(metric: type[Metric], worlds: tuple[str, ...], split: Split | None = None) -> None:
    """The worlds come in strictly falling order."""
    values = [_score(metric, build(name), split) for name in worlds]
    assert all(a > b for a, b in pairwise(values)), values


@check
def needs(metric: type[Metric], without: str | tuple[str, Split, str | None], says: str,
          split: Split | None = None) -> None:
    """Without that evidence the score is unavailable, and the reason says so."""
    if isinstance(without, str):
        evidence = build("original", retrained=False)
    else:
        probe, of, form = without
        full = build("original")
        evidence = full.of(edit(full.subject, probe, of, lambda r: None if form in (None, r["form"]) else r))
    score = metric().score(evidence, split)
    assert score.value is None and score.interval is None
    assert says in (score.unavailable or "")


@check
def uses_end(metric: type[Metric], matters: bool, split: Split | None = None) -> None:
    """Whether a change of the end token alone changes the value."""
    def worse(row: Row) -> Row:
        text = len(row["logp"]) - row["end"]
        return {**row, "logp": row["logp"][:text] + [-20.0] * row["end"],
                "hit": row["hit"][:text] + [False] * row["end"]}

    evidence = build("original")
    changed = evidence.of(edit(evidence.subject, "likelihood", "forget", worse))
    assert (_score(metric, evidence, split) != _score(metric, changed, split)) == matters


@check
def at_most(metric: type[Metric], other: str, split: Split | None = None) -> None:
    """Never more than another metric on the same rows."""
    bound = registry.load(other, "metric")
    for name in WORLDS:
        assert _score(metric, build(name), split) <= _score(bound, build(name), split)  # type: ignore[arg-type]


@check
def said(metric: type[Metric], text: str, is_: float, split: Split | None = None) -> None:
    """The value where every answer on the split is this text."""
    evidence = build("original")
    spoken = evidence.of(edit(evidence.subject, "generation", split or "forget", lambda r: {**r, "text": text}))
    assert _score(metric, spoken, split) == is_


@check
def recites(metric: type[Metric], is_: float, change: str = "") -> None:
    """The value where 20 answers of eight made-up words are said word for word, or with that change."""
    def words(i: int, start: str) -> str:
        return " and ".join(f"{start}{i}{letter}" for letter in "abcdefgh")

    rows: list[Row] = []
    for i in range(20):
        answer = {"short": f"short{i}", "pattern": words(0, "word") + f" {i}"}.get(change, words(i, "word"))
        rows.append({"id": f"forget-{i}", "entity": "", "group": "", "form": "prompt", "index": 0, "stopped": True,
                     "prompt": answer if change == "in the prompt" else "?", "reference": answer, "short": "",
                     "text": words(i, "other") if change == "another" else answer})
    score = metric().score(Evidence(Observations({("generation", "forget"): rows})), "forget")
    assert score.value == is_, score


def edit(observations: Observations, probe: str, split: Split,
         change: Callable[[Row], Row | None]) -> Observations:
    """A copy with one probe's rows of one split changed, or dropped where `change` gives None."""
    rows = rows_of(observations)
    changed = [change(row) for row in rows[probe, split]]
    rows[probe, split] = tuple(row for row in changed if row is not None)
    return Observations(rows)
