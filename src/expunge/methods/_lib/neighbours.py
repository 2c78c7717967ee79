"""Which retain rows belong to which forgotten entity, for samplers that pair within entities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain

from expunge.records.task import Example


@dataclass(frozen=True)
class Module:
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
    """The entity of a forget row: its subject, or the row itself where nobody is named."""
    return row.entity or row.id


def modules(forget: Sequence[Example], retain: Sequence[Example]) -> tuple[list[Module], list[Example]]:
    """Entities in the order of their first forget row, and the general rows, which are near none.

    A retain row is a direct neighbour of an entity when it has its `subject`, or when its `links` name one
    of its forget rows. It is an indirect one when its `group` names the entity, when it has the `subject`
    of a row that is linked, or when its `links` name a direct neighbour. A row near several entities
    belongs to the first, so that it is there once.
    """
    found: dict[str, Module] = {}
    home: dict[str, str] = {}
    for row in forget:
        entity = entity_of(row)
        found.setdefault(entity, Module(entity)).forget.append(row)
        home[row.id] = entity
    others: list[Example] = []
    near: dict[str, str] = {}
    """Subject or id of a direct neighbour -> its entity."""
    for row in retain:
        named = (row.entity if row.entity in found else "", *(home.get(link, "") for link in row.links))
        direct = next(filter(None, named), None)
        if direct is None:
            others.append(row)
            continue
        found[direct].direct.append(row)
        near.setdefault(row.id, direct)
        if row.entity:
            near.setdefault(row.entity, direct)
    general: list[Example] = []
    for row in others:
        wanted = chain((row.group,) if row.group in found else (), (near.get(k, "") for k in (row.entity, *row.links)))
        indirect = next(filter(None, wanted), None)
        (general if indirect is None else found[indirect].indirect).append(row)
    return list(found.values()), general
