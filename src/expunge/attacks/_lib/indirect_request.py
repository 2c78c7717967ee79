"""The indirect unlearning attack: an honest request to delete one entity, chosen for what it costs another.

Source: ROKA (arXiv 2603.00436). What the attack achieves is read off an audit of the task made here: how far
`neighbour.probability` (the critical rows) falls below the original's once a method has served the request.

It is a function and no attack of an audit: the attacker acts before a method runs, on the original, and an audit gets
the model afterwards. The entity is predicted, which takes no run. Nothing shows yet that the prediction finds the
costliest request; the paper's attacker may also serve every request and keep that one.

Legend: G groups of rows, D hidden size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch.nn import functional as F

from expunge.errors import UsageError, did_you_mean
from expunge.models.contributions import contributions
from expunge.models.subject import AnySubject
from expunge.records.task import Example, Task

MOST = 8
"""Rows of a group whose contributions are averaged."""


def group_of(row: Example) -> str:
    """What a request names: the entity, the class of an image, or the row."""
    return row.entity or (row.answer if row.image is not None else row.group) or row.id


def by_group(rows: Sequence[Example]) -> dict[str, list[Example]]:
    """The rows of every group, in order."""
    found: dict[str, list[Example]] = {}
    for row in rows:
        found.setdefault(group_of(row), []).append(row)
    return found


def entanglement(subject: AnySubject, groups: Mapping[str, Sequence[Example]], critical: str,
                 block: int = -1) -> dict[str, float]:
    """Cosine of every other group's mean contribution with that of the critical one, the largest first."""
    encode, means = subject.encoder.encode, []
    with subject.evaluating():
        for rows in groups.values():
            means.append(contributions(subject, [encode(row) for row in rows[:MOST]], block).mean(0))
    means_GD = F.normalize(torch.stack(means), dim=1)
    alike_G = means_GD @ means_GD[list(groups).index(critical)]
    found = {name: float(value) for name, value in zip(groups, alike_G, strict=True) if name != critical}
    return dict(sorted(found.items(), key=lambda pair: -pair[1]))


def indirect_request(subject: AnySubject, task: Task, critical: str, block: int = -1) -> Task:
    """The task in which an attacker asks to delete the retained entity that is most entangled with `critical`.

    Its forget rows are those of that entity, its neighbour rows those of `critical`, which no method is told to keep;
    all other retain rows stay.

    Raises:
        UsageError: no retain row is about `critical`, or about anything else.
    """
    groups = by_group(task.retain)
    if critical not in groups or len(groups) < 2:
        raise UsageError(f"No request can be aimed at {critical!r}.",
                         did_you_mean(critical, groups) if critical not in groups
                         else "There is nothing else to ask to delete.",
                         "Name an entity (a class, for images) of the retain rows, with others beside it.")
    (request, *_) = entanglement(subject, groups, critical, block)
    rest = tuple(row for row in task.retain if group_of(row) not in (request, critical))
    return Task(name=f"{task.name}: delete {request}, aimed at {critical}", forget=tuple(groups[request]),
                retain=rest, neighbour=tuple(groups[critical]), template=task.template,
                generation_tokens=task.generation_tokens)
