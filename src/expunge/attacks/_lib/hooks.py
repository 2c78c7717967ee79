"""Hands inside a model: what a block puts out is changed while probes ask, and every hook is taken off again.

Legend: B rows of a forward pass, T its columns, N tokens (flat), D hidden size.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from expunge.data.text_encoder import TokenRow
from expunge.errors import UsageError
from expunge.models.language import CausalLM
from expunge.records.task import Example

Site = int | Literal["embedding"]
"""A decoder block, negative counts from the end, or the token embedding: its output is meant."""
Change = Callable[[Any, Tensor], Tensor]
"""(first input of the module, its output B T D) -> what it puts out instead."""
BATCH = 16


def block_number(subject: CausalLM, block: int) -> int:
    """Counted from 0; raises UsageError for a block that the model does not have."""
    depth = len(subject.blocks)
    if not -depth <= block < depth:
        raise UsageError(f"The model has no block {block}.", f"It has {depth}, numbered from 0; -1 is the last.")
    return block % depth


def module_at(subject: CausalLM, site: Site) -> nn.Module:
    """The module whose output is meant."""
    if site == "embedding":
        found: nn.Module = subject.model.get_input_embeddings()
        return found
    return list(subject.blocks.values())[block_number(subject, site)]


@contextmanager
def rewritten(subject: CausalLM, changes: Mapping[Site, Change]) -> Iterator[None]:
    """Outputs of modules are replaced, in scoring and in cached decoding alike.

    A block runs as ever and fills its part of the cache, so that caches stay as the model expects them.
    """

    def hook(change: Change) -> Callable[..., Any]:
        def rewrite(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
            given = args[0] if args else next(iter(kwargs.values()))
            if isinstance(output, tuple):
                return (change(given, output[0]), *output[1:])
            return change(given, output)

        return rewrite

    handles = []
    try:
        for site, change in changes.items():
            handles.append(module_at(subject, site).register_forward_hook(hook(change), with_kwargs=True))
        yield
    finally:
        for handle in handles:
            handle.remove()


@dataclass(frozen=True)
class Pass:
    """The tokens of one forward pass through the blocks.

    Args:
        ids_BT: token ids of the columns that are new in this pass.
        real_BT: False on padding.
        cache: where keys and values of earlier columns lie; None when scoring.
        first: whether nothing came before these columns.
    """

    ids_BT: Tensor
    real_BT: Tensor
    cache: Any
    first: bool


class Watch:
    """Knows of which pass the blocks are in the middle."""

    def __init__(self) -> None:
        self.now: Pass

    def see(self, arguments: Mapping[str, Any]) -> None:
        """Take down the arguments of the module that holds the blocks."""
        ids_BT, mask = arguments.get("input_ids"), arguments.get("attention_mask")
        if ids_BT is None or (mask is not None and (not isinstance(mask, Tensor) or mask.dim() != 2)):
            raise UsageError("The blocks of this model are not called with token ids and a plain mask.",
                             "The attack tells rows and positions apart by them.",
                             "Leave out attacks that hand in embeddings, or take refusal_direction or layer_skip.")
        real_BT = torch.ones_like(ids_BT) if mask is None else mask[:, -ids_BT.shape[1]:]
        cache = arguments.get("past_key_values")
        self.now = Pass(ids_BT, real_BT.bool(), cache, cache is None or not cache.get_seq_length())


@contextmanager
def watched(subject: CausalLM) -> Iterator[Watch]:
    """Follow the passes: hooks of `rewritten` find in `now` which tokens they are looking at.

    The module that holds the list of blocks is watched, since wrappers such as adapters and ensembles go
    round the outer ones when they decode.
    """
    decoder = subject.model.get_submodule(".".join(next(iter(subject.blocks)).split(".")[:-2]))
    signature, watch = inspect.signature(decoder.forward), Watch()

    def see(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        watch.see(signature.bind_partial(*args, **kwargs).arguments)

    handle = decoder.register_forward_pre_hook(see, with_kwargs=True)
    try:
        yield watch
    finally:
        handle.remove()


def question(subject: CausalLM, row: Example) -> TokenRow:
    """The tokens of a prompt and the first of its answer, which a batch must have; running text as it is."""
    tokens = subject.encoder.encode(row)
    if row.kind == "text":
        return tokens
    return replace(tokens, ids=tokens.ids[: tokens.prompt + 1], answer=1, end=0)


def states(subject: CausalLM, rows: Sequence[TokenRow], site: Site) -> Iterator[tuple[TokenRow, Tensor]]:
    """Every row with its activations at the site, shape T D, float32; T is its own length."""
    if site != "embedding":
        block_number(subject, site)
    for start in range(0, len(rows), BATCH):
        batch = subject.collate(rows[start: start + BATCH])
        with subject.evaluating():
            found_BTD = module_at(subject, site)(batch.ids_BT) if site == "embedding" else subject.hidden(batch, site)
        for row, found_TD in zip(batch.rows, found_BTD.float(), strict=True):
            yield row, found_TD[: len(row.ids)]


def prompt_states(subject: CausalLM, rows: Sequence[Example], site: Site) -> list[Tensor]:
    """Activations at the prompt tokens of every row, each T D, float32; at all tokens of running text."""
    asked = [question(subject, row) for row in rows]
    found = zip(rows, states(subject, asked, site), strict=True)
    return [h_TD if row.kind == "text" else h_TD[: tokens.prompt] for row, (tokens, h_TD) in found]
