"""Which rows a model says more surely, or less surely, than every control, beyond what honest models differ by.

How surely a model says a row is the log-odds of the length-normalised probability of its answer, log(p / (1 - p)), the
scale of Carlini et al. 2022 (LiRA, arXiv 2112.03570): on it, differences between two models that never saw a row are
about as large for rare answers as for likely ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil, expm1, log
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from expunge.metrics.base import NotAvailable
from expunge.metrics.rows import by_example
from expunge.records.observation import Observations
from expunge.records.task import Split

Sureness = Mapping[str, float]
"""Example id -> log-odds."""
RARE = 0.01
"""Share of the rows that a model which never saw them may say beyond the margin."""
FEWEST = 20
"""Holdout rows from which they calibrate a margin. Beyond the largest of n lies one more row with a chance of
1 / (n + 1)."""
SURE = -1e-6
"""Highest mean log-probability: 1 has no log-odds."""


@dataclass(frozen=True)
class ControlMargin:
    """How far a row must lie above the highest control, or below the lowest one; in nats of log-odds."""

    over: float
    under: float
    rows: int
    """Differences that it was taken from."""
    source: str
    """What they are, for a sentence."""

    @property
    def exact(self) -> bool:
        """Whether it rests on enough differences to hold the share of `RARE`."""
        return self.rows + 1 >= 1 / RARE


@dataclass(frozen=True)
class Beyond:
    """For each row of the subject, by example id: whether it lies beyond every control."""

    over: Mapping[str, bool]
    under: Mapping[str, bool]
    margin: ControlMargin


def sureness(observed: Observations, split: Split) -> Sureness:
    """Log-odds of every answer with a token; of several attempts of an attack the surest.

    Raises:
        NotAvailable: there is no such row, and why.
    """
    known = _KNOWN.setdefault(observed, {})
    if split not in known:
        known[split] = _sureness(observed, split)
    return known[split]


_KNOWN: WeakKeyDictionary[Observations, dict[Split, Sureness]] = WeakKeyDictionary()
"""A score reads the same rows several times, and every score under attack those of the models left alone."""


def _sureness(observed: Observations, split: Split) -> Sureness:
    best: dict[str, float] = {}
    for attempt in observed.attempts():
        for key, example in by_example(attempt.rows("likelihood", split, "answer")).items():
            if example.answer is not None:
                best[key] = max(best.get(key, -np.inf), _log_odds(example.answer))
    if not best:
        why = observed.missing("likelihood", split)
        raise NotAvailable(f"no {split} row has an answer with a token" + (f": {why}" if why else ""))
    return best


def _log_odds(logp: float) -> float:
    logp = min(logp, SURE)
    return logp - log(-expm1(logp))


def left_out(controls: Sequence[Sureness]) -> ControlMargin:
    """The margin that several retrained models give: each is set against all others, on the forget rows.

    Args:
        controls: two or more.
    """
    over, under = [], []
    for one, others in others_of(controls):
        shared = [key for key in one if all(key in c for c in others)]
        over.append({key: one[key] - max(c[key] for c in others) for key in shared})
        under.append({key: one[key] - min(c[key] for c in others) for key in shared})
    above, below = _values(over), _values(under)
    if not len(above):
        raise NotAvailable("the retrained models share no row")
    return ControlMargin(highest(above), highest(-below), len(above),
                         f"the differences between {len(controls)} retrained models")


def others_of(controls: Sequence[Sureness]) -> list[tuple[Sureness, list[Sureness]]]:
    """Each of them, with all others."""
    return [(one, [c for k, c in enumerate(controls) if k != i]) for i, one in enumerate(controls)]


def aside(one: Sureness, other: Sureness, names: str, both_ways: bool) -> ControlMargin:
    """The margin that two models give on rows that neither was trained on.

    Args:
        both_ways: the two can change places; else `one` is the subject, and `other` its control.
    """
    gaps = np.asarray([one[key] - other[key] for key in one if key in other])
    if len(gaps) < FEWEST:
        raise NotAvailable(f"{len(gaps)} holdout rows are fewer than {FEWEST}, which it takes to tell what two models "
                           "that never saw a row differ by; a second retrained model tells it as well")
    above, below = (np.concatenate([gaps, -gaps]),) * 2 if both_ways else (gaps, -gaps)
    return ControlMargin(highest(above), highest(below), len(above),
                         f"the differences of {names} on {len(gaps)} holdout rows")


def beyond(subject: Sureness, controls: Sequence[Sureness], margin: ControlMargin) -> Beyond:
    """The rows that all of them were asked, set against the highest and the lowest control."""
    shared = [key for key in subject if all(key in c for c in controls)]
    if not shared:
        raise NotAvailable("the retrained model was asked none of these rows")
    over = {key: subject[key] > max(c[key] for c in controls) + margin.over for key in shared}
    under = {key: subject[key] < min(c[key] for c in controls) - margin.under for key in shared}
    return Beyond(over, under, margin)


def beside_holdout(subject: Sureness, holdout: Sureness, unmatched: str) -> Beyond:
    """Without a retrained model: the rows that lie above, or below, all but the share of `RARE` of other rows of the
    same kind, which the subject was not trained on.

    Args:
        unmatched: why there is no retrained model.
    """
    values = np.asarray(list(holdout.values()))
    if len(values) < FEWEST:
        raise NotAvailable(f"{unmatched}, and {len(values)} holdout rows are fewer than the {FEWEST} that can stand in "
                           "for one")
    margin = ControlMargin(highest(values), highest(-values), len(values), f"{len(values)} holdout rows of the subject")
    return Beyond({key: value > margin.over for key, value in subject.items()},
                  {key: -value > margin.under for key, value in subject.items()}, margin)


def highest(values: NDArray[np.float64]) -> float:
    """The quantile that one more value of the same kind exceeds with a chance of `RARE` at most (split conformal,
    Vovk et al. 2005); the largest value where there are too few of them for that."""
    ordered = np.sort(values)
    return float(ordered[min(ceil((1 - RARE) * (len(ordered) + 1)), len(ordered)) - 1])


def _values(found: Iterable[Mapping[str, float]]) -> NDArray[np.float64]:
    return np.asarray([value for gaps in found for value in gaps.values()])
