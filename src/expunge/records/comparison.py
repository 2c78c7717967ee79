"""Groups of runs set against each other: means over seeds, and which differences are beyond noise."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from pydantic import Field

from expunge.records.base import Record
from expunge.records.overview import Overview, number

COMPARISON_SCHEMA = "expunge.comparison/1"
LEVEL = 0.05
"""Two-sided level of every test."""
MARK = "*"
"""Stands by the best where it is beyond noise of every other group."""


class ComparedGroup(Record):
    """Runs that differ in nothing but their seed."""

    letter: str
    title: str
    """The recipe, with the options in which groups of this recipe differ."""
    recipe: str
    folders: tuple[str, ...]
    seeds: tuple[int | None, ...]
    """None for a model whose run left no record."""
    verdicts: dict[str, int]
    """Outcome -> how many runs have it."""
    train_s: float | None = None
    """Mean seconds of training."""


class GroupValue(Record):
    """One score of one group."""

    mean: float
    deviation: float | None
    """Sample standard deviation over seeds; None for one seed."""
    values: tuple[float, ...]
    """One per seed that has the score."""


class Difference(Record):
    """One score of two groups, over the seeds that both have: the first minus the second."""

    first: str
    second: str
    difference: float | None = None
    """Of the means; None where they have no seed in common."""
    interval: tuple[float, float] | None = None
    """95 % for the same difference, not adjusted for the number of pairs."""
    p: float | None = None
    """Two-sided p-value; None where no test is possible."""
    p_adjusted: float | None = None
    """By Holm's method over all pairs of groups in this score."""
    beyond_noise: bool = False
    """Whether the adjusted p-value is below 0.05."""
    seeds: int = 0
    """Seeds that both have."""
    entities: int = 0
    """Entities of the rows that both were asked; 0 where the score has no value of a single row."""
    why_not: str = ""
    """Why no test is possible."""


class ComparedScore(Record):
    """One score of all groups."""

    name: str
    attack: str | None = None
    aim: Literal["higher", "nearest"] | None = None
    """Which value is the best: the highest, or that nearest to `target`. None: there is no best."""
    target: float | None = None
    original: float | None = None
    retrained: float | None = None
    values: dict[str, GroupValue]
    """Letter -> its value; groups without the score are left out."""
    best: str | None = None
    """The group with the best mean over the seeds that all groups have; None where they have none in common."""
    level_with_best: tuple[str, ...] = ()
    """Groups that are not told from the best: the difference is not beyond noise, or both are about as far from the
    target on its two sides, or no test was possible."""
    differences: tuple[Difference, ...] = ()
    """Every pair of groups."""

    @property
    def key(self) -> str:
        """`forget.probability`, or under an attack `forget.probability@relearn(steps=5)`."""
        return self.name if self.attack is None else f"{self.name}@{self.attack}"

    @property
    def marked(self) -> str | None:
        """The best group, where it is beyond noise of every other."""
        return self.best if len(self.values) > 1 and not self.level_with_best else None


    def cell(self, letter: str, mark: str = MARK) -> str:
        """`0.123±0.004*`: mean of a group, deviation over seeds where there are several, and mark of the best."""
        value = self.values.get(letter)
        if value is None:
            return "-"
        spread = "" if value.deviation is None else f"±{value.deviation:.3f}"
        return f"{number(value.mean)}{spread}" + mark * (self.marked == letter)


class Comparison(Record):
    """What `expunge compare` found."""

    schema_: str = Field(COMPARISON_SCHEMA, alias="schema")
    model_config = Record.model_config | {"populate_by_name": True}
    groups: tuple[ComparedGroup, ...]
    scores: tuple[ComparedScore, ...]
    test: str
    """What was tested and how, in words."""
    cautions: tuple[str, ...] = ()
    """Differences between the runs that make their numbers hard to compare."""
    left_out: tuple[str, ...] = ()
    """Scores without attack that the audits have and that are not compared here."""
    left_out_under_attack: int = 0
    """How many scores under attack they have that are not compared here."""
    unavailable: dict[str, str] = Field(default_factory=dict)
    """Scores without attack that were asked for and that no audit has -> why."""

    def overview(self) -> Overview:
        """Means and deviations of the first scores; `*` marks a best that is beyond noise of every other group."""
        chosen = self.scores[:5]
        more = [s.key for s in self.scores[len(chosen):]]
        return Overview(f"Comparison of {len(self.groups)} groups of runs", [("more in .scores", more)], (
            "group", *(s.key for s in chosen)), [
            (f"{g.letter}: {g.title}", *(s.cell(g.letter) for s in chosen)) for g in self.groups])

    def rows(self) -> Iterator[dict[str, Any]]:
        """One flat row per group and score."""
        for group in self.groups:
            for score in self.scores:
                value = score.values.get(group.letter)
                if value is not None:
                    yield {"group": group.letter, "title": group.title, "score": score.name,
                           "attack": score.attack or "", "mean": value.mean, "deviation": value.deviation,
                           "seeds": len(value.values), "best": score.best == group.letter,
                           "best_beyond_noise": score.marked == group.letter,
                           "level_with_best": group.letter in score.level_with_best,
                           "original": score.original, "retrained": score.retrained}
