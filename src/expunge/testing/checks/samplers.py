"""Promises of samplers that pair forget rows with their neighbours, on made-up rows of the published counts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from typing import Any

from expunge.methods._lib.neighbours import entity_of, modules
from expunge.methods.base import Sampler
from expunge.records.task import Example

from .base import check

ENTITIES = 20
Draws = list[dict[str, Example]]


def row(id: str, **fields: Any) -> Example:
    return Example(id=id, prompt=f"{id}?", answer=f"{id}.", **fields)


@cache
def rows(forget: int = 98, direct: int = 364, indirect: int = 1144, general: int = 293,
         lonely: int = 0) -> dict[str, tuple[Example, ...]]:
    """Rows of 20 entities in uneven shares; of the neighbours, each kind shows itself in every way there is."""
    wanted = [row(f"f{i}", entity=f"e{i % ENTITIES}") for i in range(forget)]
    wanted += [row(f"lonely{i}", entity=f"alone{i // 3}") for i in range(lonely)]
    near, far = [], []
    for i in range(direct):
        by_entity: dict[str, Any] = {"entity": f"e{i % ENTITIES}"}
        near.append(row(f"d{i}", **(by_entity if i % 2 else {"links": (f"f{i % ENTITIES}",), "entity": f"n{i}"})))
    for i in range(indirect):
        e = i % ENTITIES
        ways: list[dict[str, Any]] = [{"group": f"e{e}"}]
        if direct:
            ways += [{"links": (f"d{e}",)}, {"entity": f"n{e // 2 * 2}"}]
        far.append(row(f"i{i}", **ways[i % len(ways)]))
    other = [row(f"g{i}", entity=f"other{i}", group="city", links=("f-unknown",)) for i in range(general)]
    # A row is a neighbour of a neighbour wherever it stands, before or behind it.
    return {"forget": tuple(wanted), "retain": tuple((near + far + other)[::-1])}


def ids(draws: Draws, side: str) -> Counter[str]:
    return Counter(d[side].id for d in draws)


def as_pairs(draws: Draws) -> list[tuple[str, ...]]:
    return [tuple(r.id for r in d.values()) for d in draws]


@check
def pairs(plugin: type[Sampler], forget: int, direct: int, indirect: int, general: int, count: int,
          options: dict[str, Any] | None = None) -> None:
    """An epoch over so many rows has `count` pairs, each of both sides."""
    found = rows(forget, direct, indirect, general)
    assert {side: len(r) for side, r in found.items()} == {"forget": forget, "retain": direct + indirect + general}
    split, others = modules(found["forget"], found["retain"])
    assert [len(split), sum(len(m.direct) for m in split), sum(len(m.indirect) for m in split), len(others)] == \
        [ENTITIES, direct, indirect, general]
    draws = plugin(**(options or {})).order(found, 0, seed=42)
    assert len(draws) == count
    assert all(list(d) == ["forget", "retain"] for d in draws)


def even(seen: Counter[str], expected: Sequence[Example]) -> bool:
    """Whether exactly these rows are there, none more than once more often than another."""
    return seen.keys() == {r.id for r in expected} and max(seen.values()) - min(seen.values()) <= 1


@check
def covers_both_sides(plugin: type[Sampler], thinned: bool = False) -> None:
    """Rows of both sides are seen evenly: all of them, or with `thinned` all but indirect neighbours."""
    few = {"forget": rows()["forget"], "retain": rows()["retain"][:30]}
    for found in (rows(), few):
        draws = plugin().order(found, 0, seed=0)
        assert even(ids(draws, "forget"), found["forget"])
        if not thinned:
            assert even(ids(draws, "retain"), found["retain"])
        else:
            seen = ids(draws, "retain")
            split, general = modules(found["forget"], found["retain"])
            assert {r.id for m in split for r in m.direct} | {r.id for r in general} <= seen.keys()
            assert max(seen.values()) - min(seen.values()) <= 1


@check
def equal_neighbours(plugin: type[Sampler]) -> None:
    """Per entity as many indirect as direct neighbours, the same ones in every epoch; without direct ones all."""
    found = rows()
    split, _ = modules(found["forget"], found["retain"])
    seen = ids(plugin().order(found, 0, seed=0), "retain")
    for module in split:
        direct, indirect = (sum(r.id in seen for r in part) for part in (module.direct, module.indirect))
        assert direct == indirect == len(module.direct) < len(module.indirect)
    assert ids(plugin().order(found, 3, seed=0), "retain").keys() == seen.keys()
    assert ids(plugin().order(found, 0, seed=1), "retain").keys() != seen.keys()
    bare = rows(direct=0, indirect=200, general=5)
    assert len(ids(plugin().order(bare, 0, seed=0), "retain")) == 205


@check
def stays_within_entities(plugin: type[Sampler]) -> None:
    """Non-general pairs share their entity, every retain row is there, and forget rows are cycled evenly."""
    for found in (rows(), rows(direct=40, indirect=22, general=7)):  # longer and shorter than the forget side
        split, general = modules(found["forget"], found["retain"])
        home = {r.id: m.entity for m in split for r in m.retain}
        draws = plugin().order(found, 0, seed=0)
        assert len(draws) == sum(max(len(m.forget), len(m.retain)) for m in split) + len(general)
        assert ids(draws, "retain").keys() == {r.id for r in found["retain"]}
        assert sum(d["retain"].id not in home for d in draws) == len(general)
        inside = [d for d in draws if d["retain"].id in home]
        assert all(entity_of(d["forget"]) == home[d["retain"].id] for d in inside)
        for module in split:
            seen = ids([d for d in inside if entity_of(d["forget"]) == module.entity], "forget")
            assert even(seen, module.forget)
            assert sum(seen.values()) == max(len(module.forget), len(module.retain))
    partners = ids([d for d in plugin().order(rows(), 0, seed=0) if d["retain"].id.startswith("g")], "forget")
    assert len(partners) > 60, "general rows meet forget rows of all entities"


@check
def keeps_lonely_entities(plugin: type[Sampler]) -> None:
    """Entities without neighbours are forgotten with general rows, or with any where none is general."""
    for general in (30, 0):
        found = rows(general=general, lonely=7)
        draws = plugin().order(found, 0, seed=0)
        assert ids(draws, "forget").keys() == {r.id for r in found["forget"]}
        alone = [d for d in draws if d["forget"].entity.startswith("alone") and d["retain"].id[0] != "g"]
        assert len(alone) == (0 if general else 7)


@check
def keeps_module_order(plugin: type[Sampler]) -> None:
    """Entity after entity, general rows last, in every epoch; without the option the same pairs are mixed."""
    found = rows()
    ordered = [plugin(ordered=True).order(found, epoch, seed=0) for epoch in (0, 1)]
    assert as_pairs(ordered[0]) == as_pairs(ordered[1])
    inside = [entity_of(d["forget"]) for d in ordered[0][:-293]]
    changes = sum(a != b for a, b in pairwise(inside))
    assert changes == ENTITIES - 1 and inside[0] == "e0"
    assert all(d["retain"].id.startswith("g") for d in ordered[0][-293:])
    mixed = [plugin().order(found, epoch, seed=0) for epoch in (0, 1)]
    assert as_pairs(mixed[0]) != as_pairs(mixed[1]) != as_pairs(ordered[0])
    assert sorted(as_pairs(mixed[0])) == sorted(as_pairs(mixed[1])) == sorted(as_pairs(ordered[0]))


@check
def walks_one_side_alone(plugin: type[Sampler]) -> None:
    """With one side its rows once each, in another order every epoch, and nothing of the other."""
    for side, other in (("forget", "retain"), ("retain", "forget")):
        for given in ({side: rows()[side], other: ()}, {side: rows()[side]}):
            epochs = [plugin().order(given, epoch, seed=0) for epoch in (0, 1)]
            for draws in epochs:
                assert ids(draws, side) == Counter(r.id for r in rows()[side])
                assert all(list(d) == [side] for d in draws)
            assert as_pairs(epochs[0]) != as_pairs(epochs[1])


@check
def pure_order(plugin: type[Sampler]) -> None:
    """The same arguments give the same draws, asked in any order and of any instance."""
    found = rows(direct=60, indirect=90, general=20)
    first = {epoch: as_pairs(plugin().order(found, epoch, seed=7)) for epoch in (0, 1, 2)}
    one = plugin()
    assert {epoch: as_pairs(one.order(found, epoch, seed=7)) for epoch in (2, 0, 1, 0)} == first
    assert len({tuple(pairs) for pairs in first.values()}) == 3
    assert as_pairs(one.order(found, 0, seed=8)) != first[0]
