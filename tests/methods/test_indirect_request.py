"""The indirect unlearning attack: one honest request, aimed at somebody else."""

from __future__ import annotations

import pytest

from expunge.attacks._lib.indirect_request import by_group, entanglement, indirect_request
from expunge.errors import UsageError
from expunge.testing.support import loss, memoriser, small_task, train

VICTIM = "Calida Vantongeren"


def test_the_most_entangled_entity_is_asked_for() -> None:
    groups = by_group(small_task().retain)
    alike = entanglement(memoriser(), groups, VICTIM)
    assert set(alike) == set(groups) - {VICTIM} and list(alike.values()) == sorted(alike.values(), reverse=True)
    made = indirect_request(memoriser(), small_task(), VICTIM)
    assert {row.entity for row in made.forget} == {next(iter(alike))}
    assert {row.entity for row in made.neighbour} == {VICTIM}
    assert {row.entity for row in made.retain} == set(groups) - {VICTIM, next(iter(alike))}
    assert made.template == small_task().template


def test_a_victim_that_is_not_there_is_named() -> None:
    with pytest.raises(UsageError, match=r"aimed at 'Nobody'"):
        indirect_request(memoriser(), small_task(), "Nobody")


@pytest.mark.slow
def test_ascent_costs_the_victim_and_healing_does_not() -> None:
    made = indirect_request(memoriser(), small_task(), VICTIM)
    lost, gone = {}, {}
    for recipe, steps in (("ga", 8), ("roka(alpha=4)", 18)):
        subject = train(recipe, steps=steps, lr=5e-4, forget=made.forget, retain=made.retain, batch_size=9).subject
        gone[recipe], lost[recipe] = loss(subject, made.forget), loss(subject, made.neighbour)
    before = loss(memoriser(), made.neighbour)
    assert min(gone.values()) > 0.5 and gone["roka(alpha=4)"] > 0.25 * gone["ga"], gone
    assert lost["roka(alpha=4)"] - before < 0.25 * (lost["ga"] - before), lost
