"""Answers of many rows, where the tokens that several rows begin with run once: their keys and values serve all.

An answer, its paraphrases and its wrong versions begin with the same question, and often with the same words.

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
from expunge.data.text_encoder import TokenRow, batches_by_length, check_supervised, collate_read
from expunge.models.answers import Answers
from expunge.models.fast.decoding import is_by_row, select
from expunge.models.language import CausalLM
from expunge.models.subject import Subject

SLACK = 1.2
"""How much longer a beginning may be than what is shared of it: the remainder runs once for every answer."""
NEIGHBOURS = 64
"""Rows of one prompt that are compared with each other: bounds the search where thousands share one."""


@dataclass(frozen=True)
class Beginning:
    """Rows that share their first `length` tokens: at least the prompt without its last token."""

    members: tuple[int, ...]
    length: int


def answers_in_parts(subject: CausalLM, rows: Sequence[TokenRow],
                     chosen: Sequence[int]) -> Iterator[tuple[list[tuple[int, ...]], Answers]]:
    """The subject's answers at the supervised positions of the `chosen` rows, part by part.

    As `Subject.answers_in_parts`. A model without a cache of keys and values runs every row whole. Not for models with
    hooks, which would see parts of rows.

    Raises:
        DataError: a row has no supervised token.
    """
    check_supervised([rows[i] for i in chosen])
    pad_id, left = subject.encoder.pad_id, set(chosen)
    for few in _groups(list(_beginnings(rows, chosen))):
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
                collate_read([rest[k] for k in batch], pad_id), _for_rows(cache, whose, len(few)))
        left -= owner.keys()
        del begun, cache  # before the next ones are made
    yield from Subject.answers_in_parts(subject, rows, [i for i in chosen if i in left])


def _beginnings(rows: Sequence[TokenRow], chosen: Sequence[int]) -> Iterator[Beginning]:
    """Groups of rows with one prompt; the group that saves most comes first, until no two rows are left."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for i in chosen:
        if rows[i].prompt > 1:
            groups.setdefault(rows[i].ids[: rows[i].prompt], []).append(i)
    for prompt, members in groups.items():
        members.sort(key=lambda i: rows[i].ids)  # rows that share most are neighbours then
        for at in range(0, len(members), NEIGHBOURS):
            near = members[at: at + NEIGHBOURS]
            while len(near) > 1:
                one, first = _best(rows, near, len(prompt) - 1)
                del near[first: first + len(one.members)]
                yield one


def _best(rows: Sequence[TokenRow], members: Sequence[int], prompt: int) -> tuple[Beginning, int]:
    """The neighbours that save most positions, and where they start; the rows left over can still share the prompt."""
    shared = [_common(rows[i].ids, rows[j].ids) for i, j in pairwise(members)]
    splits = ((more * length + max(len(members) - more - 2, 0) * prompt, start, more + 1, length)
              for start in range(len(shared))
              for more, length in enumerate(accumulate(shared[start:], min), 1))
    _, start, count, length = max(splits, key=itemgetter(0))
    return Beginning(tuple(members[start: start + count]), length), start


def _common(a: tuple[int, ...], b: tuple[int, ...]) -> int:
    """How many first tokens can be read for both rows; each keeps one token to read and one to predict."""
    shared, most = 0, min(len(a), len(b)) - 1
    while shared < most and a[shared] == b[shared]:
        shared += 1
    return shared - 1


def _first(row: TokenRow, count: int) -> TokenRow:
    """The row cut to its first `count` tokens."""
    answer = min(max(count - row.prompt, 0), row.answer)
    return replace(row, ids=row.ids[:count], prompt=min(row.prompt, count), answer=answer,
                   end=max(count - row.prompt - answer, 0))


def _rest(row: TokenRow, length: int) -> TokenRow:
    """The row without its first `length` tokens; the first of the rest was predicted by them."""
    done = _first(row, length + 1)
    return replace(row, ids=row.ids[length:], prompt=max(row.prompt - length, 1), answer=row.answer - done.answer,
                   end=row.end - done.end)


def _groups(beginnings: Sequence[Beginning]) -> Iterator[list[Beginning]]:
    """Beginnings that run in one pass: none is more than `SLACK` times as long as the shortest.

    All are cut to the length of the shortest, so that no padding stands in the cache. A pass may hold twice the usual
    number of positions, since the passes over what follows choose among the rows of these alone.
    """
    order = sorted(beginnings, key=lambda one: one.length)
    while order:
        least = order[0].length
        fits = max(2 * tokens.POSITIONS // least, 1)
        most = bisect_right(order[:fits], SLACK * least, key=lambda one: one.length)
        yield order[:most]
        order = order[most:]


def _for_rows(cache: Any, whose: torch.Tensor, rows: int) -> Any:
    """A new cache with the keys and values of the rows `whose` of the `rows` that the cache has."""
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
