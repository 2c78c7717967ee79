"""Answers of many rows, where what several rows begin with is run once and its keys and values serve them all.

Legend: B rows, N supervised tokens (flat).
"""

from __future__ import annotations

import copy
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from operator import itemgetter
from typing import Any

import torch

from expunge.data import text_encoder as tokens
from expunge.data.text_encoder import TokenRow, batches_by_length, check_supervised, collate, collate_read
from expunge.models.answers import Answers
from expunge.models.decoding import is_by_row, select
from expunge.models.language import CausalLM

SLACK = 1.2
"""How much longer a beginning may be than what is shared of it: what is left over runs once for every answer."""
NEIGHBOURS = 64
"""Rows of one prompt that are compared with each other: bounds the search where thousands share one."""


@dataclass(frozen=True)
class Beginning:
    """Rows that share their first tokens, the prompt but for its last token at the least, and how many those are."""

    members: tuple[int, ...]
    length: int


def answers_in_parts(subject: CausalLM, rows: Sequence[TokenRow],
                     chosen: Sequence[int]) -> Iterator[tuple[list[tuple[int, ...]], Answers]]:
    """The subject's answers at the supervised positions of the `chosen` rows, part by part.

    Yields the indices of all rows that each row of the answers is a part of, and those answers. The parts of a row come
    in order, and the last one is its own. A question that several answers share is run once, and so are the words that
    several of them begin with. A model with hooks on it (an attack on activations) or without a cache of keys and
    values runs every row whole.

    Raises:
        DataError: a row has no supervised token.
    """
    check_supervised([rows[i] for i in chosen])
    pad_id, left = subject.encoder.pad_id, set(chosen)
    for few in _alike(list(_beginnings(rows, chosen))) if subject.bare else ():
        length = few[0].length
        start = [_first(rows[one.members[0]], length + 1) for one in few]
        begun = subject.answers(collate_read(start, pad_id), keep=True)
        cache = begun.past
        if not is_by_row(cache) or cache.get_seq_length() != length:
            break
        if begun.batch.count("tokens"):
            yield [one.members for one in few], begun
        owner = {i: g for g, one in enumerate(few) for i in one.members}
        order = list(owner)
        rest = [_rest(rows[i], length) for i in order]
        for batch in batches_by_length(rest):
            whose = torch.tensor([owner[order[k]] for k in batch], device=subject.device)
            yield [(order[k],) for k in batch], subject.answers(
                collate_read([rest[k] for k in batch], pad_id), _lent(cache, whose, len(few)))
        left -= owner.keys()
        del begun, cache  # before the next ones are made
    put = collate_read if subject.bare else collate
    for alone in batches_by_length(rows, [i for i in chosen if i in left]):
        yield [(i,) for i in alone], subject.answers(put([rows[i] for i in alone], pad_id))


def _beginnings(rows: Sequence[TokenRow], chosen: Sequence[int]) -> Iterator[Beginning]:
    """Of the rows with one prompt again and again those that save most, until no two are left."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for i in chosen:
        if rows[i].prompt > 1:
            groups.setdefault(rows[i].ids[: rows[i].prompt], []).append(i)
    for prompt, members in groups.items():
        members.sort(key=lambda i: rows[i].ids)  # whoever shares most stands side by side
        for at in range(0, len(members), NEIGHBOURS):
            near = members[at: at + NEIGHBOURS]
            while len(near) > 1:
                one, first = _best(rows, near, len(prompt) - 1)
                del near[first: first + len(one.members)]
                yield one


def _best(rows: Sequence[TokenRow], members: Sequence[int], prompt: int) -> tuple[Beginning, int]:
    """Neighbours that save most positions, and where they stand; whoever stays behind can still share the prompt."""
    shared = [_common(rows[i].ids, rows[j].ids) for i, j in pairwise(members)]
    splits = ((more * length + max(len(members) - more - 2, 0) * prompt, start, more + 1, length)
              for start in range(len(shared))
              for more, length in enumerate(accumulate(shared[start:], min), 1))
    _, start, count, length = max(splits, key=itemgetter(0))
    return Beginning(tuple(members[start: start + count]), length), start


def _common(a: tuple[int, ...], b: tuple[int, ...]) -> int:
    """How many tokens one run can read for both: each keeps a token to read, and one to predict, of its own part."""
    shared, most = 0, min(len(a), len(b)) - 1
    while shared < most and a[shared] == b[shared]:
        shared += 1
    return shared - 1


def _first(row: TokenRow, count: int) -> TokenRow:
    """So many first tokens of it."""
    answer = min(max(count - row.prompt, 0), row.answer)
    return replace(row, ids=row.ids[:count], prompt=min(row.prompt, count), answer=answer,
                   end=max(count - row.prompt - answer, 0))


def _rest(row: TokenRow, length: int) -> TokenRow:
    """What follows so many tokens; the first of it was predicted before."""
    done = _first(row, length + 1)
    return replace(row, ids=row.ids[length:], prompt=max(row.prompt - length, 1), answer=row.answer - done.answer,
                   end=row.end - done.end)


def _alike(beginnings: Sequence[Beginning]) -> Iterator[list[Beginning]]:
    """Batches nearly as long as their first one. As much of all is shared as that has: no padding stands in the cache.

    Twice as many positions as usual, since a pass of what follows has no more rows to choose from than these.
    """
    order = sorted(beginnings, key=lambda one: one.length)
    while order:
        least = order[0].length
        fits = max(2 * tokens.POSITIONS // least, 1)
        most = bisect_right(order[:fits], SLACK * least, key=lambda one: one.length)
        yield order[:most]
        order = order[most:]


def _lent(cache: Any, whose: torch.Tensor, rows: int) -> Any:
    """A cache of its own with keys and values of these of its `rows` rows; selecting and growing make new ones."""
    mine = _copied(cache)
    select(mine, whose, rows)
    return mine


def _copied(cache: Any) -> Any:
    mine = copy.copy(cache)
    mine.layers = [copy.copy(layer) for layer in cache.layers]
    for name, part in vars(cache).items():  # a guard keeps a second one beside it
        if hasattr(part, "layers"):
            setattr(mine, name, _copied(part))
    return mine
