"""Continuations of prompts, token by token.

Legend: B rows, T padded length.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from expunge.models import fast
from expunge.models.behaviour import decodes_together

if TYPE_CHECKING:
    from expunge.models.language import CausalLM


Watch = Callable[[int, list[int]], bool]
"""Is told (prompt, its new tokens so far) after every token that does not end it; True ends that continuation there."""


def continued(subject: CausalLM, prompts: Sequence[Sequence[int]], most: int, batch_size: int, way: dict[str, Any],
              begun: Sequence[Sequence[int]], progress: Callable[[int], None] | None,
              watch: Watch | None = None) -> list[tuple[list[int], bool]]:
    """New tokens of every prompt without the one that ends them, and whether one did. For `CausalLM.generate`.

    Args:
        most: new tokens at the most.
        way: how tokens are chosen, as transformers names it.
        begun: tokens that each continuation is known to begin with; used where that changes nothing.
        watch: sees every token as it comes, and may end a continuation.
    """
    stops = stop_ids(subject)
    context = subject.context
    known: list[list[int]] = [[] for _ in prompts]
    if begun and fast.enabled("known_tokens"):
        from expunge.models.fast.decoding import may_begin

        if may_begin(subject, prompts, most, way):
            known = [list(tokens[:most]) for tokens in begun]
    going = [i for i, tokens in enumerate(known) if len(tokens) < most and stops.isdisjoint(tokens)]
    if progress and len(going) < len(known):
        progress(len(known) - len(going))
    going.sort(key=lambda i: len(prompts[i]) + len(known[i]))
    options = way | {"num_beams": 1, "use_cache": True, "pad_token_id": subject.encoder.pad_id,
                     "eos_token_id": sorted(stops) or None}
    lengths = [len(prompts[i]) + len(known[i]) for i in going]
    ended: dict[int, int] = {}  # prompt -> tokens after which `watch` ended it
    together = decodes_together(subject) if len(going) > 1 else "any"
    for few in batches_of(lengths, 1 if together == "one" else batch_size, equal=together != "any"):
        chosen = [going[k] for k in few]
        ids, attention = left_padded([(*prompts[i], *known[i]) for i in chosen], subject.encoder.pad_id)
        room = max(most - len(known[i]) for i in chosen)
        room = room if context is None else min(room, context - ids.shape[1])
        here = options
        if watch is not None:
            from expunge.models.watched import watched

            here = options | watched(watch, chosen, ids.shape[1], stops, ended)
        said = _decoded(subject, ids.to(subject.device), attention.to(subject.device), max(room, 1), stops, here)
        for i, row in zip(chosen, said, strict=True):
            known[i] += row[: ended.get(i, most - len(known[i]))]
        if progress:
            progress(len(chosen))
    ends = [next((t for t, token in enumerate(tokens) if token in stops), None) for tokens in known]
    return [(tokens[:end], end is not None) for tokens, end in zip(known, ends, strict=True)]


def batches_of(lengths: Sequence[int], size: int, equal: bool) -> Iterator[range]:
    """Places of neighbours, at most `size` together; of one length alone where `equal`. `lengths` are sorted."""
    start = 0
    while start < len(lengths):
        end = min(start + size, len(lengths))
        if equal:
            end = min(end, bisect_right(lengths, lengths[start]))
        yield range(start, end)
        start = end


def left_padded(rows: Sequence[Sequence[int]], pad_id: int) -> tuple[Tensor, Tensor]:
    """Token ids and attention mask, shape B T each, padded on the left as decoding needs."""
    width = max(map(len, rows))
    ids_BT = torch.full((len(rows), width), pad_id, dtype=torch.long)
    attention_BT = torch.zeros_like(ids_BT)
    for b, tokens in enumerate(rows):
        ids_BT[b, width - len(tokens):] = torch.tensor(tokens)
        attention_BT[b, width - len(tokens):] = 1
    return ids_BT, attention_BT


def _decoded(subject: CausalLM, ids_BT: Tensor, attention_BT: Tensor, room: int, stops: set[int],
             options: dict[str, Any]) -> list[list[int]]:
    """New tokens of every row, at most `room` of them, with whatever follows an end token."""
    if fast.enabled("ended_rows") and "stopping_criteria" not in options:
        from expunge.models.fast.decoding import in_stretches

        said = in_stretches(subject, ids_BT, attention_BT, room, stops, options)
        if said is not None:
            return said
    out_BT = (subject.decode or subject.model.generate)(
        input_ids=ids_BT, attention_mask=attention_BT, max_new_tokens=room, **options)
    return list(out_BT[:, ids_BT.shape[1]:].tolist())


def stop_ids(subject: CausalLM) -> set[int]:
    """End tokens: the tokenizer's, that of a turn, and those the model's generation config names."""
    named = getattr(subject.model.generation_config, "eos_token_id", None)
    ids = {named} if isinstance(named, int) else set(named or ())
    ids |= subject.encoder.turn_ends
    return ids | ({subject.encoder.eos_id} if subject.encoder.eos_id is not None else set())


def stripped(text: str, keep_lines: bool) -> str:
    """A continuation without the white space around it; with the line breaks before its first word if these count."""
    return text.rstrip().lstrip(" \t") if keep_lines else text.strip()
