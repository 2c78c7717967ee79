"""Membership attacks on models that were trained on neither side: every AUC is one half, give or take chance.

Chance is taken over people, not rows: the rows of one person share names and facts, so they hang together.
"""

from __future__ import annotations

from collections import defaultdict
from functools import cache
from typing import Any, cast

import numpy as np
import pytest
from numpy.typing import NDArray

from expunge.data.world import authors_task
from expunge.metrics.base import Evidence
from expunge.metrics.membership import SPLITS_READ, MembershipAttack
from expunge.metrics.statistics import auc
from expunge.models.language import CausalLM
from expunge.models.tiny import build_subject
from expunge.records.observation import Observations, Row
from expunge.records.task import Split, Task
from expunge.registry import load, of_kind
from expunge.testing import attack_bed, support

ATTACKS = [e.name for e in of_kind("metric") if issubclass(e.load(), MembershipAttack)]


@cache
def crowd() -> Task:
    """Many people nobody was trained on, on both sides; questions only."""
    world = authors_task(forget=20, retain=2, holdout=20, neighbours=0, seed=9)
    return world.model_copy(update={side: tuple(r for r in getattr(world, side) if r.group == "attribute")[:: 2]
                                    for side in SPLITS_READ})


@cache
def newborn(seed: int) -> CausalLM:
    return build_subject(support.CONFIG, crowd().texts(), seed=seed)


def observed(subject: CausalLM, task: Task) -> Observations:
    found: dict[tuple[str, Split], list[Row]] = {}
    for name, options in (("likelihood", {"alternatives": False}), ("gradient", {})):
        probe: Any = load(name, "probe")(**options)
        for split in SPLITS_READ:
            found[name, split] = probe.observe(subject, task.probe_rows(split), task)
    return Observations(found)


@cache
def evidence(which: str) -> Evidence:
    """The model under test, with another never-trained one as its reference."""
    if which == "newborn":
        return Evidence(observed(newborn(0), crowd()), retrained=(observed(newborn(1), crowd()),))
    models = [observed(attack_bed.retrained(seed), attack_bed.task()) for seed in (1, 2)]
    return Evidence(models[which == "retrained again"], retrained=(models[which == "retrained"],))


def people(found: Evidence, split: Split, count: int) -> list[str]:
    rows = found.subject.rows("likelihood", split, "answer")
    assert len(rows) == count
    return [r["entity"] for r in rows]


def cluster_error(members: NDArray[np.float64], outsiders: NDArray[np.float64], of_members: list[str],
                  of_outsiders: list[str]) -> float:
    """Standard error of an AUC whose rows come in people (DeLong's placements, summed per person)."""
    variance = 0.0
    for own, other, names in ((members, outsiders, of_members), (outsiders, members, of_outsiders)):
        placed = ((own[:, None] > other).mean(1) + (own[:, None] == other).mean(1) / 2)
        sums: dict[str, float] = defaultdict(float)
        for name, value in zip(names, placed - placed.mean(), strict=True):
            sums[name] += value
        k = len(sums)
        variance += k / (k - 1) * sum(v * v for v in sums.values()) / len(own) ** 2
    return float(variance ** 0.5)


def test_the_error_knows_people() -> None:
    """Against a simulation: rows of one person that agree are worth one row, independent ones all count."""
    random = np.random.default_rng(0)
    names = [str(i // 8) for i in range(160)]
    for same in (0.0, 2.0):
        draws = [[random.normal(size=160) + same * np.repeat(random.normal(size=20), 8) for _ in range(2)]
                 for _ in range(300)]
        errors = [cluster_error(a, b, names, names) for a, b in draws]
        assert np.mean(errors) == pytest.approx(np.std([auc(a, b) for a, b in draws]), rel=0.15)


@pytest.mark.parametrize("which", ["newborn", "retrained", pytest.param("retrained again", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", ATTACKS)
def test_nobody_was_trained_on_either_side(name: str, which: str) -> None:
    attack, found = cast(MembershipAttack, load(name, "metric")()), evidence(which)
    strata = attack.sample(found)
    value = attack.statistic(strata)
    names = [people(found, split, len(strata[split])) for split in SPLITS_READ]
    error = cluster_error(-strata["forget"], -strata["holdout"], *names)
    assert value == pytest.approx(0.5, abs=3 * error), f"{value:.3f} with a standard error of {error:.3f}"


@pytest.mark.parametrize("name", ATTACKS)
def test_the_original_is_found_out(name: str) -> None:
    """The same attacks, on a model that was trained on one side: an attack that never fires proves nothing."""
    known = Evidence(observed(attack_bed.original(), attack_bed.task()), retrained=evidence("retrained").retrained)
    assert cast(MembershipAttack, load(name, "metric")()).score(known, resamples=20).value > 0.9  # type: ignore[operator]
