"""The built-in world: what it promises is checked on the rows themselves."""

from __future__ import annotations

from collections import Counter
from itertools import permutations
from random import Random

import pytest

from expunge.data.world import DEFAULTS, OPTIONS, WRONG, authors_task, unique_names
from expunge.data.world_pools import (
    ATTRIBUTES,
    DETAILS,
    FIRST_NAMES,
    LAST_NAMES,
    MENTOR,
    MENTOR_CITY,
    UTILITY,
)
from expunge.errors import UsageError
from expunge.records.task import SPLITS, Example, Task

PEOPLE = ("forget", "retain", "holdout", "neighbour")


@pytest.fixture(scope="module")
def task() -> Task:
    return authors_task()


def everyone(task: Task) -> list[Example]:
    return [row for split in SPLITS for row in task.split(split)]


def qa(rows: tuple[Example, ...] | list[Example]) -> list[Example]:
    return [row for row in rows if row.kind == "qa"]


def test_default_sizes(task: Task) -> None:
    assert {s: len(task.split(s)) for s in SPLITS} == {
        "forget": 100, "retain": 600, "holdout": 100, "neighbour": 100, "utility": 86,
    }
    assert task.name == "authors"
    assert all(40 <= n <= 60 for n in Counter(row.group for row in task.utility).values())
    assert {row.group for row in task.utility} == {"geography", "science"}


def test_same_seed_same_rows_other_seed_other_rows(task: Task) -> None:
    assert authors_task().fingerprint == task.fingerprint
    other = authors_task(seed=1)
    assert other.name == "authors(seed=1)"
    assert other.fingerprint != task.fingerprint


def test_default_world_is_the_published_one(task: Task) -> None:
    """Stored results rest on these rows; a change here makes them stale and must be on purpose."""
    assert task.fingerprint == "bd8ccab466328eff"


def test_name_says_what_is_not_default() -> None:
    assert authors_task(forget=5, seed=1).name == "authors(forget=5,seed=1)"
    assert authors_task(**DEFAULTS).name == "authors"


def test_no_global_random_state(task: Task) -> None:
    import random

    state = random.getstate()
    authors_task(seed=3)
    assert random.getstate() == state


def test_ids_differ_and_rows_differ(task: Task) -> None:
    rows = everyone(task)
    assert len({row.id for row in rows}) == len(rows)
    assert len({(row.prompt, row.answer) for row in rows}) == len(rows)


def test_people_of_splits_are_strangers(task: Task) -> None:
    names = {split: {row.entity for row in task.split(split)} for split in PEOPLE}  # type: ignore[arg-type]
    for a, b in permutations(PEOPLE, 2):
        assert not names[a] & names[b]
        for row in task.split(a):  # type: ignore[arg-type]
            texts = (row.prompt, row.answer, *row.wrong_answers, *row.options)
            assert not any(name in text for name in names[b] for text in texts)


def test_background_is_what_unlearning_never_sees(task: Task) -> None:
    assert task.background == task.neighbour + task.utility
    assert not {r.id for r in task.training_rows("full")} & {r.id for r in task.holdout}
    assert not {r.id for r in task.training_rows("retain")} & {r.id for r in task.forget}


def test_retain_probe_is_balanced(task: Task) -> None:
    probe = task.probe_rows("retain")
    assert set(probe) <= set(task.retain)
    assert Counter(r.group for r in probe) == Counter(r.group for r in task.forget)


def test_short_answer_stands_once_in_the_answer(task: Task) -> None:
    for row in qa(everyone(task)):
        for text in (row.answer, *row.paraphrased_answers):
            assert text.count(row.short_answer) == 1, row


def test_answers_are_short(task: Task) -> None:
    assert max(len(row.answer.split()) for row in qa(everyone(task))) <= 14
    assert {row.kind for row in everyone(task)} == {"qa", "text"}


def test_wrong_answers_are_wrong_and_worded_like_the_paraphrase(task: Task) -> None:
    for row in qa(everyone(task)):
        assert len(set(row.wrong_answers)) == WRONG
        said = {row.answer, *row.paraphrased_answers}
        assert not said & set(row.wrong_answers)
        before, _, after = (*row.paraphrased_answers, row.answer)[0].partition(row.short_answer)
        for wrong in row.wrong_answers:
            assert wrong.startswith(before) and wrong.endswith(after)
            assert wrong[len(before):len(wrong) - len(after)] != row.short_answer


def test_options_hold_the_right_one_once(task: Task) -> None:
    rows = qa(everyone(task))
    for row in rows:
        assert len(set(row.options)) == OPTIONS
        assert row.options.count(row.short_answer) == 1
    places = Counter(row.options.index(row.short_answer) for row in rows)
    assert min(places.values()) > len(rows) / OPTIONS / 2  # shuffled: no place gives the answer away


def test_text_rows_have_nothing_to_choose_from(task: Task) -> None:
    texts = [row for row in everyone(task) if row.kind == "text"]
    assert len(texts) == 90
    for row in texts:
        assert not (row.prompt or row.wrong_answers or row.paraphrased_answers or row.options)
        facts = {r.id: r.short_answer for r in everyone(task)}
        assert all(facts[link] in row.answer for link in row.links)


def test_links_resolve(task: Task) -> None:
    ids = {row.id for row in everyone(task)}
    assert {link for row in everyone(task) for link in row.links} <= ids


def test_deduced_facts_follow_from_their_two_sources(task: Task) -> None:
    rows = {row.id: row for row in everyone(task)}
    deduced = [row for row in rows.values() if row.group == "deduced"]
    assert len(deduced) == 90
    for row in deduced:
        first, second = (rows[link] for link in row.links)
        assert first.entity == row.entity and first.id.endswith("/mentor")
        assert second.entity == first.short_answer and second.id.endswith("/birth_city")
        assert second.short_answer == row.short_answer
        splits = {r.id.split("/")[1] for r in (row, first, second)}
        assert len(splits) == 1  # nobody outside the split can know it
        assert second.entity != row.entity


def test_neighbours_share_values_with_forget_people(task: Task) -> None:
    rows = {row.id: row for row in everyone(task)}
    shared = [row for row in task.neighbour if row.group == "attribute" and row.links]
    assert len(shared) == 30
    for row in shared:
        (link,) = row.links
        assert link.startswith("authors/forget/") and rows[link].short_answer == row.short_answer


def test_sharing_favours_forget_and_holdout_alike() -> None:
    """How often a true value occurs in what the retrained twin saw is the same on both sides."""
    seen_forget = seen_holdout = 0
    for seed in range(20):
        task = authors_task(seed=seed)
        seen = Counter(
            (row.id.rsplit("/")[-1], row.short_answer)
            for row in task.training_rows("retain") if row.group == "attribute"
        )
        seen_forget += sum(seen[r.id.rsplit("/")[-1], r.short_answer] for r in qa(task.forget))
        seen_holdout += sum(seen[r.id.rsplit("/")[-1], r.short_answer] for r in qa(task.holdout))
    assert seen_forget / seen_holdout == pytest.approx(1, abs=0.05)


def test_every_phrasing_is_trained_on_by_both_twins(task: Task) -> None:
    rows = task.training_rows("retain")
    for fact in (*ATTRIBUTES, MENTOR, MENTOR_CITY):
        mine = [row for row in rows if row.id.split("/")[-1] == fact.key]
        asked = {row.prompt.replace(row.entity, "{name}") for row in mine}
        said = {row.answer.replace(row.entity, "{name}").replace(row.short_answer, "{value}")
                for row in mine}
        assert asked == set(fact.questions) and said == set(fact.answers)
    for _, fact, _ in UTILITY:
        mine = [row for row in rows if f"/{fact.key}/" in row.id]
        assert {row.prompt.replace(row.entity, "{name}") for row in mine} == set(fact.questions)
        assert len({row.answer.replace(row.short_answer, "{value}").replace(row.entity, "{name}")
                    for row in mine}) == len(fact.answers)


def test_pools_hold_no_value_inside_another() -> None:
    pools = [*(f.pool for f in ATTRIBUTES), FIRST_NAMES, LAST_NAMES, *DETAILS.values()]
    pools += [tuple(dict.fromkeys(v for _, v in pairs)) for _, _, pairs in UTILITY]
    for pool in pools:
        assert len(set(pool)) == len(pool)
        assert not any(a in b for a, b in permutations(pool, 2))


def test_names() -> None:
    names = unique_names(300, Random(0))
    assert len(set(names)) == 300
    assert not any(a in b for a, b in permutations(names, 2))
    assert unique_names(2, Random(0), ["Ana", "Diana"], ["Sol", "Solberg", "Reed"])
    for a, b in permutations(unique_names(3, Random(1), ["Ana", "Diana"], ["Sol", "Solberg", "Reed"]), 2):
        assert a not in b
    with pytest.raises(UsageError, match="different names"):
        unique_names(5, Random(0), ["A", "B"], ["C", "D"])


@pytest.mark.parametrize("sizes", [{"forget": 0}, {"retain": -1}, {"forget": 5000}])
def test_impossible_sizes(sizes: dict[str, int]) -> None:
    with pytest.raises(UsageError):
        authors_task(**sizes)


def test_small_worlds_work() -> None:
    alone = authors_task(forget=1, retain=0, holdout=0, neighbours=0)
    assert {row.group for row in alone.forget} == {"attribute", "biography"}
    assert alone.probes == {} and not alone.retain
    two = authors_task(forget=2, retain=3, holdout=2, neighbours=1)
    assert len(two.forget) == 20
    for row in qa(everyone(two)):
        assert len(set(row.wrong_answers)) == WRONG
    assert len(authors_task(forget=4, retain=2).probes["retain"]) == 20
