"""Preference pairs, and how well a model is aligned with them."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor
from torch.nn import functional as F

from expunge.data.files import read_rows
from expunge.data.refusals import REFUSALS
from expunge.errors import DataError, MissingError
from expunge.methods._lib.weighted_likelihood import sequence_logp
from expunge.models.subject import Subject
from expunge.records.task import Example, Task
from expunge.seeding import stream

Pair = tuple[Example, Example]
"""The preferred row, and the other one."""


def alignment(subject: Subject, pair: Pair, before: tuple[float, float] | None, beta: float) -> Tensor:
    """J of one pair: -log sigmoid(beta (log(P+/P0+) - log(P-/P0-))); lower is better aligned.

    Args:
        before: log P0 of both rows; None where the model is its own reference.
    """
    better, worse = (sequence_logp(subject.answers(subject.collate([subject.encoder.encode(row)])))[0] for row in pair)
    first, second = (better.detach(), worse.detach()) if before is None else before
    return -F.logsigmoid(beta * ((better - first) - (worse - second)))


def pairs_of(task: Task, seed: int) -> list[Pair]:
    """Refusals before the answers to forget questions, and the answers to retain questions before refusals."""
    def refused(row: Example) -> Example:
        return row.model_copy(update={"answer": stream(seed, "preferences", row.id).choice(REFUSALS)})

    forget, retain = ([row for row in rows if row.asks] for rows in (task.forget, task.retain))
    return [(refused(row), row) for row in forget] + [(row, refused(row)) for row in retain]


def read_pairs(path: Path) -> list[Pair]:
    """Pairs of a file of {prompt, chosen, rejected}. Raises MissingError, or DataError for another row."""
    if not path.is_file():
        raise MissingError(f"The file of pairs {path} does not exist.",
                           "It should hold rows {prompt, chosen, rejected}.",
                           "Check the path; a relative path starts at the working directory.")
    found: list[Pair] = []
    for where, line in read_rows(path):
        texts = [line.get(name) for name in ("prompt", "chosen", "rejected")]
        if not all(isinstance(text, str) and text for text in texts):
            raise DataError(f"{where}: a row must be {{prompt, chosen, rejected}}.", f"It is {dict(line)}.")
        first, second = (Example(id=f"pair{len(found)}", prompt=str(texts[0]), answer=str(t)) for t in texts[1:])
        found.append((first, second))
    return found
