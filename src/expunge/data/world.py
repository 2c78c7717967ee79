"""The built-in world `authors`: invented people. A model knows only what it was trained on about them.

Everything is drawn from one seeded generator, so size and seed determine the rows. Forget, retain and
holdout people are drawn from one distribution, which makes their scores comparable: about an unseen
person of any split a model gives a well-formed guess.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from random import Random

from expunge.data.world_pools import (
    ATTRIBUTES,
    BIOGRAPHY,
    DETAILS,
    FIRST_NAMES,
    LAST_NAMES,
    MENTOR,
    MENTOR_CITY,
    UTILITY,
    Fact,
)
from expunge.errors import UsageError
from expunge.records.task import Example, Task
from expunge.terms import with_options

DEFAULTS: Mapping[str, int] = {"forget": 10, "retain": 60, "holdout": 10, "neighbours": 10, "seed": 0}
"""The options of `authors_task`: people per split, and the seed of the generator."""
WRONG = 5
OPTIONS = 4
SHARED = 3
"""Number of attribute values that a neighbour shares with one forget person (and with one holdout person)."""


@dataclass(frozen=True)
class Person:
    """One invented person. `shared` maps an attribute to the id of the forget row with the same value."""

    id: str
    name: str
    values: Mapping[str, str]
    shared: Mapping[str, str] = field(default_factory=dict)


def authors_task(
    *, forget: int = 10, retain: int = 60, holdout: int = 10, neighbours: int = 10, seed: int = 0
) -> Task:
    """The world as a `Task`: `forget`, `retain`, ... count people, each with ten rows.

    Seven attributes, a mentor, the mentor's birth city (deducible from two other rows, which its
    `links` name) and a biography as running text. `Example.group` is `attribute`, `relation`,
    `deduced` or `biography` for people, and `geography` or `science` for utility rows. The mentor
    of a person is in the same split, so a model that was not trained on a split cannot deduce
    anything about it; a split of one person has no relation rows. Neighbours share values with
    forget people (then `links` name the forget row); original and retrained model train on them,
    unlearning does not.

    Raises UsageError for sizes below 0 (forget: below 1) or more people than names.
    """
    sizes = {"forget": forget, "retain": retain, "holdout": holdout, "neighbour": neighbours}
    for split, count in sizes.items():
        if count < (split == "forget"):
            raise UsageError(
                f"The world `authors` cannot have {count} {split} people.",
                "Sizes are counts of people; there must be at least one person to forget.",
            )
    rng = Random(seed)
    names = iter(unique_names(sum(sizes.values()) + WRONG + 1, rng))
    people: dict[str, list[Person]] = {}
    for split, count in sizes.items():
        people[split] = [
            Person(f"authors/{split}/p{i:03d}", next(names), {f.key: rng.choice(f.pool) for f in ATTRIBUTES})
            for i in range(count)
        ]
    people["neighbour"] = _neighbours(people, rng)
    spare = list(names)
    rows = {split: _split_rows(split, members, spare, rng) for split, members in people.items()}

    # All rows of a person, so that the probed retain rows have the same mixture of kinds as the forget rows.
    probed = {p.name for p in rng.sample(people["retain"], min(forget, retain))}
    probe = tuple(row for row in rows["retain"] if row.entity in probed)
    utility = _utility(rng)
    options = dict(zip(DEFAULTS, (forget, retain, holdout, neighbours, seed), strict=True))
    return Task(
        name=with_options("authors", options, DEFAULTS),
        forget=rows["forget"], retain=rows["retain"], holdout=rows["holdout"],
        neighbour=rows["neighbour"], utility=utility, background=rows["neighbour"] + utility,
        probes={"retain": probe} if probe else {},
        generation_tokens=40,
    )


def unique_names(
    count: int, rng: Random, first: Sequence[str] = FIRST_NAMES, last: Sequence[str] = LAST_NAMES
) -> tuple[str, ...]:
    """`count` full names in random order, all different and none contained in another.

    Raises UsageError if the pools hold too few.
    """
    pairs = [f"{a} {b}" for a in dict.fromkeys(first) for b in dict.fromkeys(last)]
    rng.shuffle(pairs)
    names: list[str] = []
    for pair in pairs:
        if len(names) == count:
            break
        if not any(pair in name or name in pair for name in names):
            names.append(pair)
    if len(names) < count:
        raise UsageError(
            f"{count} different names are needed, but only {len(names)} can be made.",
            f"There are {len(first)} first and {len(last)} last names.",
            "Ask for fewer people.",
        )
    return tuple(names)


def _neighbours(people: Mapping[str, list[Person]], rng: Random) -> list[Person]:
    """Give each neighbour values of one forget person, and as many of one holdout person.

    Values are shared with holdout people too, because sharing makes a value slightly more frequent in
    the training rows of both models, which must not favour forget people. Titles are not shared: two
    authors do not write the same first book.
    """
    shareable = [f.key for f in ATTRIBUTES if f.key != "first_book"]
    result = []
    for i, person in enumerate(people["neighbour"]):
        keys = iter(rng.sample(shareable, 2 * SHARED))
        values, shared = dict(person.values), {}
        for split in ("forget", "holdout"):
            if not people[split]:
                continue
            source = people[split][i % len(people[split])]
            for _ in range(SHARED):
                key = next(keys)
                values[key] = source.values[key]
                if split == "forget":
                    shared[key] = f"{source.id}/{key}"
        result.append(Person(person.id, person.name, values, shared))
    return result


def _split_rows(split: str, people: list[Person], spare: list[str], rng: Random) -> tuple[Example, ...]:
    """The rows of one split, person by person."""
    order = list(range(len(people)))
    rng.shuffle(order)
    # Along one cycle every person has a mentor and is the mentor of one other person.
    mentor = {a: people[b] for a, b in zip(order, order[1:] + order[:1], strict=True)}
    shifts = {f.key: rng.randrange(9) for f in (*ATTRIBUTES, MENTOR, MENTOR_CITY)}
    rows: list[Example] = []
    for i, person in enumerate(people):

        def ask(fact: Fact, value: str, pool: Sequence[str], group: str, links: tuple[str, ...],
                i: int = i, person: Person = person) -> Example:
            return _row(f"{person.id}/{fact.key}", person.name, fact, value, pool, group, links,
                        i + shifts[fact.key], rng)

        for fact in ATTRIBUTES:
            links = (person.shared[fact.key],) if fact.key in person.shared else ()
            rows.append(ask(fact, person.values[fact.key], fact.pool, "attribute", links))
        if len(people) > 1:
            other = mentor[i]
            # Wrong mentors come from the same split: a model that never saw it knows them as little
            # as the right one. Small splits use spare names.
            pool = [p.name for p in people if p.name not in (person.name, other.name)]
            pool += spare[:max(0, WRONG - len(pool))]
            rows.append(ask(MENTOR, other.name, pool, "relation", ()))
            sources = (f"{person.id}/{MENTOR.key}", f"{other.id}/birth_city")
            rows.append(ask(MENTOR_CITY, other.values["birth_city"], MENTOR_CITY.pool, "deduced", sources))
        rows.append(_biography(person, rng))
    return tuple(rows)


def _row(
    id: str, name: str, fact: Fact, value: str, pool: Sequence[str], group: str, links: tuple[str, ...],
    turn: int, rng: Random, *, restated: bool = True,
) -> Example:
    """One question about `name`. `turn` picks the phrasings, so that all are used in rotation.

    Wrong answers have the wording of the first paraphrase, or of the answer itself if a fact is not
    restated (as in TOFU's utility rows), so that only the facts differ.
    """
    questions, answers = fact.questions, fact.answers
    q = turn % len(questions)
    a = (turn + turn // len(questions)) % len(answers)  # all pairs of question and answer forms occur
    prompts = [text.format(name=name) for text in questions[q:] + questions[:q]]
    forms = answers[a:] + answers[:a]
    texts = [text.format(name=name, value=value) for text in forms]
    others = rng.sample([v for v in dict.fromkeys(pool) if v != value], WRONG)
    options = [value, *others[:OPTIONS - 1]]
    rng.shuffle(options)
    return Example(
        id=id, prompt=prompts[0], answer=texts[0], entity=name, group=group,
        paraphrased_prompts=tuple(prompts[1:]), paraphrased_answers=tuple(texts[1:]) if restated else (),
        wrong_answers=tuple(forms[int(restated)].format(name=name, value=v) for v in others),
        options=tuple(options), short_answer=value, links=links,
    )


def _biography(person: Person, rng: Random) -> Example:
    """Running text to be memorised; linked to the rows whose facts it repeats."""
    words = {key: rng.choice(pool) for key, pool in DETAILS.items()}
    text = " ".join(rng.choice(line) for line in BIOGRAPHY)
    return Example(
        id=f"{person.id}/biography", prompt="", kind="text", entity=person.name, group="biography",
        answer=text.format(name=person.name, **person.values, **words),
        links=tuple(f"{person.id}/{fact.key}" for fact in ATTRIBUTES),
    )


def _utility(rng: Random) -> tuple[Example, ...]:
    """Simple true facts, to measure damage to general knowledge."""
    rows = []
    for group, fact, pairs in UTILITY:
        pool = [value for _, value in pairs]
        for i, (subject, value) in enumerate(pairs):
            id = f"authors/utility/{fact.key}/{subject.lower()}"
            rows.append(_row(id, subject, fact, value, pool, group, (), i, rng, restated=False))
    return tuple(rows)
