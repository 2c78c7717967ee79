"""Assigns retain rows to forgotten entities, for samplers that pair rows within an entity."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain

from expunge.records.task import Example


@dataclass(frozen=True)
class EntityRows:
    """An entity: its forget rows, and the retain rows near it."""

    entity: str
    forget: list[Example] = field(default_factory=list)
    direct: list[Example] = field(default_factory=list)
    indirect: list[Example] = field(default_factory=list)

    @property
    def retain(self) -> list[Example]:
        """Direct neighbours, then indirect ones."""
        return self.direct + self.indirect


def entity_of(row: Example) -> str:
    """The entity of a forget row, or the row's id if it has none."""
    return row.entity or row.id


def modules(forget: Sequence[Example], retain: Sequence[Example]) -> tuple[list[EntityRows], list[Example]]:
    """Entities in the order of their first forget row, and the general rows, which are neighbours of none.

    A retain row is a direct neighbour of an entity when it has its `entity`, or when its `links` name one
    of its forget rows. It is an indirect one when its `group` names the entity, when it has the `entity`
    of a linked row, or when its `links` name a direct neighbour. A neighbour of several entities is
    assigned to the first, so that every row occurs once.
    """
    by_entity: dict[str, EntityRows] = {}
    home: dict[str, str] = {}
    for row in forget:
        entity = entity_of(row)
        by_entity.setdefault(entity, EntityRows(entity)).forget.append(row)
        home[row.id] = entity
    others: list[Example] = []
    near: dict[str, str] = {}
    """Entity or id of a direct neighbour -> the forgotten entity."""
    for row in retain:
        named = (row.entity if row.entity in by_entity else "", *(home.get(link, "") for link in row.links))
        direct = next(filter(None, named), None)
        if direct is None:
            others.append(row)
            continue
        by_entity[direct].direct.append(row)
        near.setdefault(row.id, direct)
        if row.entity:
            near.setdefault(row.entity, direct)
    general: list[Example] = []
    for row in others:
        named = (row.group,) if row.group in by_entity else ()
        candidates = chain(named, (near.get(k, "") for k in (row.entity, *row.links)))
        indirect = next(filter(None, candidates), None)
        (general if indirect is None else by_entity[indirect].indirect).append(row)
    return list(by_entity.values()), general
