"""Answers of many rows, where what several rows begin with is run once and its keys and values serve them all.

Legend: B rows, G beginnings, P their length, N supervised tokens (flat).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch

from expunge.data import tokens
from expunge.data.tokens import TokenRow, batches_by_length, collate
from expunge.models.answers import Answers
from expunge.models.decoding import is_by_row, select
from expunge.models.subject import Subject

SLACK = 1.1
"""How much longer a beginning may be than what is shared of it: what is left over runs once for every answer."""
Ids = tuple[int, ...]


def answers_in_batches(subject: Subject, rows: Sequence[TokenRow],
                       chosen: Sequence[int]) -> Iterator[tuple[list[int], Answers]]:
    """Indices of rows and the subject's answers at their supervised positions, each of `chosen` once.

    Rows that share a prompt share its forward pass; the rest runs whole, in batches of similar length. A model with
    hooks on it (an attack on activations) or without a cache of keys and values runs every row whole.
    """
    groups = _by_prompt(rows, chosen) if subject.bare else {}
    shared = [(prefix, members) for prefix, members in groups.items() if len(members) > 1]
    for few in _alike(shared):
        length = len(few[0][0])
        cache = _cached(subject, [prefix[:length] for prefix, _ in few])
        if cache is None:
            shared = []
            break
        owner = {i: g for g, (_, members) in enumerate(few) for i in members}
        order = list(owner)
        rest = [replace(rows[i], ids=rows[i].ids[length:], prompt=rows[i].prompt - length) for i in order]
        for batch in batches_by_length(rest):
            mine = _lent(cache)
            select(mine, torch.tensor([owner[order[k]] for k in batch], device=subject.device), len(few))
            answers = subject.answers(collate([rest[k] for k in batch], subject.tokens.pad_id), mine)
            yield [order[k] for k in batch], answers
    done = {i for _, members in shared for i in members}
    for alone in batches_by_length(rows, [i for i in chosen if i not in done]):
        yield alone, subject.answers(collate([rows[i] for i in alone], subject.tokens.pad_id))


def _by_prompt(rows: Sequence[TokenRow], chosen: Sequence[int]) -> dict[Ids, list[int]]:
    """Prompt but for its last token, which predicts the first of the answer -> rows that begin with it."""
    found: dict[Ids, list[int]] = {}
    for i in chosen:
        if rows[i].prompt > 1:
            found.setdefault(rows[i].ids[: rows[i].prompt - 1], []).append(i)
    return found


def _alike(groups: Sequence[tuple[Ids, list[int]]]) -> Iterator[list[tuple[Ids, list[int]]]]:
    """Groups whose beginnings are nearly as long as the first one's, within the usual bound.

    As much of all is shared as the first one has, so that no padding stands in the cache.
    """
    batch: list[tuple[Ids, list[int]]] = []
    for prefix, members in sorted(groups, key=lambda group: len(group[0])):
        if batch and (len(prefix) > SLACK * len(batch[0][0])
                      or (len(batch) + 1) * len(batch[0][0]) > tokens.POSITIONS):
            yield batch
            batch = []
        batch.append((prefix, members))
    if batch:
        yield batch


def _lent(cache: Any) -> Any:
    """The same keys and values under a cache of its own: selecting and growing make new ones."""
    mine = copy.copy(cache)
    mine.layers = [copy.copy(layer) for layer in cache.layers]
    for name, part in vars(cache).items():  # a guard keeps a second one beside it
        if hasattr(part, "layers"):
            setattr(mine, name, _lent(part))
    return mine


def _cached(subject: Subject, prefixes: Sequence[Ids]) -> Any:
    """Keys and values of equally long beginnings; None where the model keeps none that could be shared."""
    ids_GP = torch.tensor(prefixes, device=subject.device)
    with subject.headless():
        found = subject.model(input_ids=ids_GP, attention_mask=torch.ones_like(ids_GP), use_cache=True)
    cache: Any = getattr(found, "past_key_values", None)
    return cache if is_by_row(cache) and cache.get_seq_length() == ids_GP.shape[1] else None
