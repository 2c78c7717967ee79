"""Base classes of metrics: numbers per example from the evidence, then one statistic of them.

`sample` turns observation rows into strata (named arrays whose first axis is the example) and
`statistic` maps strata to one float. The value is `statistic(sample)`; its interval comes from
the entities of every stratum (`grouped`), so no metric implements its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf, isfinite
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from expunge import plugin, registry
from expunge.errors import UsageError
from expunge.metrics.by_entity import statistic_interval
from expunge.needs import MODEL_NEEDS, NEED_TEXTS, ModelNeed, unmet
from expunge.plugin import Card, Plugin
from expunge.records.observation import Observations, Row
from expunge.records.score import Access, Orientation, Score
from expunge.records.task import SPLITS, Split

Strata = Mapping[str, NDArray[np.float64]]
Groups = Mapping[str, Sequence[str]]
"""Stratum -> the entity of each of its rows."""


class NotAvailable(Exception):
    """The evidence lacks something that a metric needs; the message says what and why."""


@dataclass(frozen=True)
class Evidence:
    """Observations of the model under test and of its references."""

    subject: Observations
    original: Observations | None = None
    retrained: tuple[Observations, ...] = ()
    offered: frozenset[ModelNeed] = frozenset(MODEL_NEEDS)
    """What the model under test offers of what metrics may need."""
    unmatched: str = "no retrained model was given (--retrained)"
    """Why there is no retrained model, where there is none."""

    def rows(self, probe: str, split: Split, form: str | None = None) -> tuple[Row, ...]:
        """Rows of the subject; raises NotAvailable with a reason when there are none."""
        rows = self.subject.rows(probe, split, form)
        if not rows:
            what = f"{form} rows" if form else "rows"
            why = self.subject.missing(probe, split)
            if not why and split not in {of for _, of in tuple(self.subject.keys())}:  # one reason for all its scores
                raise NotAvailable(f"there are no {split} rows")
            raise NotAvailable(f"there are no {split} {what} of the {probe} probe" + (f": {why}" if why else ""))
        return rows

    def of(self, observations: Observations) -> Evidence:
        """The same evidence with another model in the subject's place (for controls)."""
        return replace(self, subject=observations)

    def need_retrained(self) -> Observations:
        """The first retrained model: the gold standard."""
        if not self.retrained:
            raise NotAvailable(self.unmatched)
        return self.retrained[0]


@dataclass(frozen=True, kw_only=True)
class MetricCard(Card):
    """A card that also states orientation, range, ideal value and access of the score."""

    higher_is: Orientation
    range: tuple[float, float] | None
    """Smallest and largest possible value; None when one end is open."""
    ideal: float | Literal["reference"]
    access: Access
    probes: tuple[tuple[str, tuple[Split, ...]], ...]
    """The observations it reads: (probe name, splits)."""
    alternatives: bool = False
    """True when it reads paraphrases, wrong answers or options of the likelihood probe."""
    per_split: bool = False
    """True when the metric is computed for one split and its score is called `<split>.<name>`."""


class Metric(Plugin):
    """Base class. Override `sample`; `statistic` is the mean of the only stratum by default.

    A stratum whose name starts with "reference" holds rows of another model: it is resampled like
    the others, and left out of `n`.
    """

    card: ClassVar[MetricCard]
    anchored: ClassVar[bool] = False
    """True when the score compares the subject with `retrained[0]`. That model compared with itself is
    perfect by construction, so with several retrained models the control is the mean of the *others*: the
    distance between two models that both never saw the forget set."""
    resampled: ClassVar[bool] = True
    """False when the score already accounts for its sampling error, as a p-value does."""

    def sample(self, evidence: Evidence, split: Split | None = None) -> Strata:
        """Numbers per example. Raises NotAvailable with the reason when there are none."""
        raise NotImplementedError

    def grouped(self, evidence: Evidence, split: Split | None = None) -> tuple[Strata, Groups]:
        """`sample`, and the entity of each row, for its interval; without these each row is its own."""
        return self.sample(evidence, split), {}

    def statistic(self, strata: Strata) -> float:
        (values,) = strata.values()
        return float(np.mean(values))

    def orientation(self, split: Split | None) -> Orientation:
        """How to read a higher value on this split; the card's orientation unless options change it."""
        return self.card.higher_is

    @property
    def needs(self) -> frozenset[str]:
        """What it needs of the audit; the card's needs unless options change them."""
        return self.card.needs

    @property
    def model_needs(self) -> frozenset[ModelNeed]:
        """Its own needs and those of the probes it reads."""
        return self.card.model_needs.union(*(registry.model_needs(probe) for probe, _ in self.card.probes))

    def reads_alternatives(self, split: Split | None) -> bool:
        """Whether it reads paraphrases, wrong answers or options of the likelihood probe."""
        return self.card.alternatives

    def label(self, split: Split | None) -> str:
        """Name of the score: it includes the options that differ from their defaults."""
        text = self.text().replace("'", "")
        return f"{split}.{text}" if split else text

    def check_split(self, split: Split | None) -> None:
        """Raise UsageError when a per-split metric gets no split, or another one gets a split."""
        if self.card.per_split:
            self.one(split)
        elif split is not None:
            raise UsageError(f"{self.card.name} spans several splits and cannot be computed for {split} alone.",
                             fix=f"Write {self.card.name} without a split.")

    def one(self, split: Split | None) -> Split:
        """The split of a per-split metric."""
        if split is None:
            raise UsageError(f"{self.card.name} needs a split.",
                             fix=f"For instance forget.{self.card.name}; splits: {', '.join(SPLITS)}.")
        return split

    def remark(self, evidence: Evidence, split: Split | None) -> str | None:
        """What a reader must know of how the value came about, such as rows left out."""
        return None

    def score(self, evidence: Evidence, split: Split | None = None, *, resamples: int = 1000,
              seed: int = 0) -> Score:
        """Value, interval and controls, or the reason why there is none."""
        self.check_split(split)
        for need in unmet(self.model_needs, evidence.offered)[:1]:
            return self._without(split, f"it {NEED_TEXTS[need].why}")
        frame = self._frame(split)
        try:
            strata, groups = self.grouped(evidence, split)
            value = self.statistic(strata)
            if not isfinite(value):
                raise NotAvailable(f"the value is {value}, not a number that can be reported")
        except NotAvailable as reason:
            return self._without(split, str(reason))
        interval = None
        if self.resampled and resamples > 0:
            plain_mean = type(self).statistic is Metric.statistic
            low, high = statistic_interval(self.statistic, strata, groups, resamples=resamples, seed=seed,
                                           plain_mean=plain_mean)
            least, most = self.card.range or (-inf, inf)
            # The percentiles of a bounded statistic (a p-value of 1) can exclude the value itself.
            interval = (min(max(low, least), value), max(min(high, most), value))
        return Score(
            value=value, interval=interval, controls=self._controls(evidence, split),
            entities=min((len(set(of)) for of in groups.values()), default=0),
            n=sum(len(v) for k, v in strata.items() if not k.startswith("reference")),
            remark=self.remark(evidence, split), by_layer=self._by_layer(evidence), **frame,
        )

    def by_layer(self, evidence: Evidence) -> Sequence[tuple[int, float]]:
        """(layer, value) for every layer that it reads, where its value chooses one or is their mean."""
        return ()

    def _by_layer(self, evidence: Evidence) -> dict[str, tuple[tuple[int, float], ...]]:
        """The same of all models, one retrained model among them."""
        models = {"unlearned": evidence.subject, "original": evidence.original,
                  "retrained": next(iter(evidence.retrained), None)}
        found = {}
        for name, seen in models.items():
            try:
                if seen is not None and (values := tuple(self.by_layer(evidence.of(seen)))):
                    found[name] = values
            except NotAvailable:
                continue
        return found

    def _without(self, split: Split | None, why: str) -> Score:
        """The score where there is no number, with the reason."""
        return Score(value=None, unavailable=why, **self._frame(split))

    def _frame(self, split: Split | None) -> dict[str, Any]:
        """What every score of it says."""
        return {"name": self.label(split), "higher_is": self.orientation(split), "ideal": self.card.ideal,
                "range": self.card.range, "access": self.card.access}

    def _controls(self, evidence: Evidence, split: Split | None) -> dict[str, float | None]:
        controls: dict[str, float | None] = {}
        if evidence.original is not None:
            controls["original"] = self._value(evidence.of(evidence.original), split)
        if evidence.retrained:
            several = len(evidence.retrained) > 1
            models = evidence.retrained[1:] if self.anchored and several else evidence.retrained
            values = [self._value(evidence.of(model), split) for model in models]
            known = [v for v in values if v is not None]
            controls["retrained"] = float(np.mean(known)) if known else None
        return controls

    def _value(self, evidence: Evidence, split: Split | None) -> float | None:
        try:
            value = self.statistic(self.sample(evidence, split))
        except NotAvailable:
            return None
        return value if isfinite(value) else None


class GroupOptions(plugin.Spec):
    """Options of a metric that can be limited to a group of rows."""

    group: str = Field("", description="only rows of this group, or of groups below it; all by default")


class RowMetric(Metric):
    """A metric that is the mean of one number per example. Override `values`. Only these metrics have an excess."""

    pools: ClassVar[bool] = False
    """True when `values` reads all attempts of an attack together instead of one attempt at a time."""

    def values(self, evidence: Evidence, split: Split) -> dict[str, float]:
        """Example id -> number; examples that cannot be scored are left out."""
        raise NotImplementedError

    def missing(self, split: Split) -> str:
        """The reason when no example can be scored."""
        return f"no {split} row can be scored"

    def best(self, evidence: Evidence, split: Split) -> dict[str, float]:
        """Example id -> best number over all attempts of an attack (their mean when the metric is neutral)."""
        attempts = (evidence.subject,) if self.pools else evidence.subject.attempts()
        scored = [self.values(evidence.of(one), split) for one in attempts]
        if group := getattr(self.spec, "group", ""):
            there = evidence.subject.of_group(split, group)
            if not there:
                raise NotAvailable(f"no {split} row is of the group {group}")
            scored = [{key: value for key, value in scores.items() if key in there} for scores in scored]
        if len(scored) == 1:
            return scored[0]
        best = {"knows": max, "forgot": min}.get(self.orientation(split), _mean)
        gathered: dict[str, list[float]] = {}
        for scores in scored:
            for key, value in scores.items():
                gathered.setdefault(key, []).append(value)
        return {key: best(values) for key, values in gathered.items()}

    def sample(self, evidence: Evidence, split: Split | None = None) -> Strata:
        return self.grouped(evidence, split)[0]

    def grouped(self, evidence: Evidence, split: Split | None = None) -> tuple[Strata, Groups]:
        split = self.one(split)
        scores, entities = self.best(evidence, split), evidence.subject.entities(split)
        if not scores:
            raise NotAvailable(self.missing(split))
        return ({split: np.asarray(list(scores.values()), dtype=float)},
                {split: [entities.get(key, key) for key in scores]})


def _mean(values: list[float]) -> float:
    return float(np.mean(values))
