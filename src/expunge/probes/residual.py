"""The residual stream between decoder blocks: look at it, and run a model with part of it given.

Legend: B rows, T padded length, D hidden size, N supervised tokens (flat).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from expunge.data.text_encoder import TokenBatch, TokenRow
from expunge.models.answers import Answers
from expunge.models.language import CausalLM
from expunge.records.observation import Row
from expunge.records.task import Example

Kept = TypeVar("Kept")


def watch(subject: CausalLM, batch: TokenBatch, keep: Callable[[Any], Kept],
          layers: Sequence[int] | None = None) -> tuple[Answers, list[Kept]]:
    """One forward pass: the model's answers, and `keep(output)` of every block named, in order."""
    blocks = list(subject.blocks.values())
    wanted = range(len(blocks)) if layers is None else layers
    caught: dict[int, Kept] = {}

    def hook(layer: int) -> Callable[..., None]:
        def note(module: nn.Module, args: Any, output: Any) -> None:
            caught[layer] = keep(output)
        return note

    handles = [blocks[layer].register_forward_hook(hook(layer)) for layer in wanted]
    try:
        answers = subject.answers(batch)
    finally:
        for handle in handles:
            handle.remove()
    return answers, [caught[layer] for layer in wanted]


@contextmanager
def standing_in(subject: CausalLM, outputs: Sequence[Any]) -> Iterator[None]:
    """The first blocks return these outputs instead of computing; whatever follows them runs as always.

    Going through the model itself rather than through its norm and head by name serves every family, adapters
    and guards, and keeps what some models do to their logits at the end.
    """
    blocks = list(subject.blocks.values())[: len(outputs)]
    before = [block.__dict__.get("forward") for block in blocks]
    try:
        for block, output in zip(blocks, outputs, strict=True):
            block.forward = _give(output)
        yield
    finally:
        for block, own in zip(blocks, before, strict=True):
            block.__dict__.pop("forward", None)
            if own is not None:
                block.forward = own


def _give(output: Any) -> Callable[..., Any]:
    return lambda *args, **options: output


def states(output: Any) -> Tensor:
    """The hidden states in what a block returned, shape B T D (members of an ensemble stacked along B)."""
    found: Tensor = output[0] if isinstance(output, tuple) else output
    return found


def with_states(output: Any, states_BTD: Tensor) -> Any:
    """The same output with other hidden states."""
    return (states_BTD, *output[1:]) if isinstance(output, tuple) else states_BTD


def text_mask(batch: TokenBatch) -> Tensor:
    """Which of the N supervised tokens belong to the answer rather than end it."""
    flags = [t < row.answer for row in batch.rows for t in range(row.answer + row.end)]
    return torch.tensor(flags, device=batch.ids_BT.device)


def answerable(tokens: Sequence[TokenRow]) -> list[int]:
    """Indices of the rows whose answer has a token."""
    return [i for i, row in enumerate(tokens) if row.answer]


def heading(example: Example) -> Row:
    """What every row begins with."""
    return {"id": example.id, "entity": example.entity, "group": example.group, "form": "answer", "index": 0}


def rounded(values: Tensor, digits: int) -> list[float]:
    """Plain floats with so many significant digits."""
    return [float(f"{v:.{digits}g}") for v in values.tolist()]
