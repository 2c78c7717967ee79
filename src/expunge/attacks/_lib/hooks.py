"""What attacks on activations share: outputs of blocks changed while probes ask, and the activations themselves.

Legend: B rows of a forward pass, T its columns, N tokens (flat), D hidden size.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from expunge.data.text_encoder import TokenRow
from expunge.errors import UsageError
from expunge.models.language import CausalLM
from expunge.models.sites import Change, Site, watch_calls, write
from expunge.models.slots import decoder_of
from expunge.models.subject import Subject
from expunge.records.task import Example

Where = int | Literal["embedding"]
"""A decoder block, negative counts from the end, or the token embedding: its output is meant."""
BATCH = 16


def site_at(where: Where) -> Site:
    return Site(slot="embedding") if where == "embedding" else Site(where)


@contextmanager
def rewritten(subject: Subject, changes: Mapping[Where, Change]) -> Iterator[None]:
    """Outputs of blocks or of the embedding are replaced, in scoring and in cached decoding alike."""
    with ExitStack() as stack:
        for where, change in changes.items():
            stack.enter_context(write(subject, site_at(where), change))
        yield


@dataclass(frozen=True)
class Pass:
    """The rows of one forward pass through the blocks.

    Args:
        ids_BT: token ids of the columns that are new in this pass, or the whole content of rows without tokens.
        real_BT: False on padding.
        cache: where keys and values of earlier columns lie; None when scoring.
        first: whether nothing came before these columns.
        columns: whether activations have a column for each of the ids; an image's have none.
    """

    ids_BT: Tensor
    real_BT: Tensor
    cache: Any
    first: bool
    columns: bool = True


class Watch:
    """Knows of which pass the blocks are in the middle."""

    def __init__(self, subject: Subject) -> None:
        self._subject = subject
        self.now: Pass

    def see(self, arguments: Mapping[str, Any]) -> None:
        """Take down the arguments of the module that holds the blocks."""
        ids_BT, mask, columns = self._subject.content_of(arguments)
        if ids_BT is None or (mask is not None and (not isinstance(mask, Tensor) or mask.dim() != 2)):
            raise UsageError("The blocks of this model are not called with token ids and a plain mask.",
                             "The attack tells rows and positions apart by them.",
                             "Leave out attacks that hand in embeddings, or take refusal_direction or layer_skip.")
        real_BT = torch.ones_like(ids_BT) if mask is None else mask[:, -ids_BT.shape[1]:]
        cache = arguments.get("past_key_values")
        self.now = Pass(ids_BT, real_BT.bool(), cache, cache is None or not cache.get_seq_length(),
                        columns)


@contextmanager
def watched(subject: Subject) -> Iterator[Watch]:
    """Follow the passes: hooks of `rewritten` find in `now` which tokens they are looking at.

    The module that holds the list of blocks is watched, since wrappers such as adapters and ensembles go
    round the outer ones when they decode.
    """
    decoder = decoder_of(subject)
    if decoder is None:
        raise UsageError("This model has no list of decoder blocks.", "The attack watches the module that holds them.")
    signature, watch = inspect.signature(decoder.forward), Watch(subject)

    def see(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        watch.see(signature.bind_partial(*args, **kwargs).arguments)

    with watch_calls([decoder], see):
        yield watch


def question(subject: CausalLM, row: Example) -> TokenRow:
    """The tokens of a prompt and the first of its answer, which a batch must have; running text as it is."""
    tokens = subject.encoder.encode(row)
    if row.kind == "text":
        return tokens
    return replace(tokens, ids=tokens.ids[: tokens.prompt + 1], answer=1, end=0)


def states(subject: CausalLM, rows: Sequence[TokenRow], where: Where) -> Iterator[tuple[TokenRow, Tensor]]:
    """Every row with its activations there, shape T D, float32; T is its own length."""
    place = site_at(where).place(subject)
    for start in range(0, len(rows), BATCH):
        batch = subject.collate(rows[start: start + BATCH])
        with subject.evaluating():
            found_BTD = place.module(batch.ids_BT) if where == "embedding" else subject.hidden(batch, where)
        for row, found_TD in zip(batch.rows, found_BTD.float(), strict=True):
            yield row, found_TD[: len(row.ids)]


def prompt_states(subject: CausalLM, rows: Sequence[Example], where: Where) -> list[Tensor]:
    """Activations at the prompt tokens of every row, each T D, float32; at all tokens of running text."""
    asked = [question(subject, row) for row in rows]
    found = zip(rows, states(subject, asked, where), strict=True)
    return [h_TD if row.kind == "text" else h_TD[: tokens.prompt] for row, (tokens, h_TD) in found]
