"""The seam of a task: a card, options, and the function that gives its rows.

To add a task, add a file here (or an entry point in the group `expunge.plugins`): a `TaskPlugin` with a card, a
`Spec` with its options and `load`. Limits, overlaps and names are seen to by `loading.load_task`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, NamedTuple, get_args

from expunge.plugin import Card, Plugin
from expunge.records.task import Task


class Published(NamedTuple):
    """A published number on a task, to compare with."""

    task: str
    model: str
    subject: str
    """`original`, `retrained`, or the method."""
    score: str
    value: float
    source: str


@dataclass(frozen=True, kw_only=True)
class TaskCard(Card):
    """A card that also says where the rows come from and what is asked of a model by default."""

    licence: str
    """Of the rows."""
    source: str
    """Where the rows come from."""
    suite: str = "standard"
    """What an audit asks when no suite is named."""
    bench: str = ""
    """What `expunge bench` asks; the suite and the quick attacks where it is empty."""
    published: tuple[Published, ...] = ()


class TaskPlugin(Plugin):
    """Base of every task with a name."""

    card: ClassVar[TaskCard]
    part: ClassVar[str] = ""
    """The option that a word after a colon gives: `tofu:forget10` is `tofu(part=forget10)`."""

    def load(self, data_dir: Path | None) -> Task:
        """All rows; the same options give the same rows anywhere.

        The name of the task that is returned leads back to it: `load_task(task.name) == task`.

        Args:
            data_dir: folder of files that the user named; a task that has its own rows ignores it.

        Raises:
            MissingError: the data is not here, and what to do about it.
            DataError: the data is not what was published.
        """
        raise NotImplementedError

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """The names by which it is asked for: one per part, or its own."""
        words = get_args(cls.Spec.model_fields[cls.part].annotation) if cls.part else ()
        return tuple(f"{cls.card.name}:{word}" for word in words) or (cls.card.name,)
