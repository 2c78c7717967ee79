"""Which parameters belong to which decoder block, where a model's blocks are known."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from expunge.errors import UsageError
from expunge.models.subject import Subject


def owners(subject: Subject, parameters: Sequence[nn.Parameter]) -> list[list[int]]:
    """For every decoder block which of these parameters are its own; [] where the blocks are not known."""
    try:
        blocks = list(subject.blocks.values())
    except UsageError:
        return []
    own = [{id(q) for q in block.parameters()} for block in blocks]
    return [[i for i, q in enumerate(parameters) if id(q) in ids] for ids in own]
