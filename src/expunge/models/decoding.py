"""Continuations of prompts, token by token.

Legend: B rows, T padded length.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain, repeat
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from expunge.models.language import CausalLM

STRETCH = 32
"""Greedy tokens between two looks at who has ended."""
HARMLESS = {"transformers_version", "bos_token_id", "eos_token_id", "pad_token_id", "max_length", "max_new_tokens",
            "do_sample", "temperature", "top_p", "top_k", "use_cache"}
"""Settings of a model's own decoding that do not change which token is likeliest."""
LOCAL = {"repetition_penalty", "no_repeat_ngram_size", "bad_words_ids", "suppress_tokens"}
"""Those that do, but look at the words alone: not at where the decoding began."""


def is_by_row(cache: Any) -> bool:
    """Whether a cache holds keys and values of every row and nothing else, so that rows can be picked from it."""
    layers = getattr(cache, "layers", None) or ()
    return bool(layers) and hasattr(cache, "batch_select_indices") and all(
        isinstance(getattr(layer, "keys", None), Tensor) and not hasattr(layer, "conv_states") for layer in layers)


def select(cache: Any, chosen: Tensor, rows: int) -> None:
    """Each row of a batch gets the keys and values of one of the `rows` there were; an ensemble has a stack of them."""
    members = len(cache.layers[0].keys) // rows
    cache.batch_select_indices(torch.cat([chosen + k * rows for k in range(members)]))


def continued(subject: CausalLM, prompts: Sequence[Sequence[int]], most: int, batch_size: int, way: dict[str, Any],
              begun: Sequence[Sequence[int]], progress: Callable[[int], None] | None) -> list[tuple[list[int], bool]]:
    """New tokens of every prompt without the one that ends them, and whether one did. For `CausalLM.generate`."""
    stops = stop_ids(subject)
    context = subject.context
    # Rows of a batch that are ahead are decoded on until the last one is through, and must have the room for it.
    roomy = context is None or all(len(prompt) + 2 * most <= context for prompt in prompts)
    ahead = bool(begun) and roomy and not way["do_sample"] and _is_plain(subject)
    known = [list(tokens[:most]) for tokens in begun] if ahead else [[] for _ in prompts]
    going = [i for i, tokens in enumerate(known) if len(tokens) < most and stops.isdisjoint(tokens)]
    if progress and len(going) < len(known):
        progress(len(known) - len(going))
    going.sort(key=lambda i: len(prompts[i]) + len(known[i]))
    options = way | {"num_beams": 1, "use_cache": True, "pad_token_id": subject.encoder.pad_id,
                     "eos_token_id": sorted(stops) or None}
    for start in range(0, len(going), batch_size):
        chosen = going[start: start + batch_size]
        shown = [(*prompts[i], *known[i]) for i in chosen]
        width = max(map(len, shown))
        ids = torch.full((len(chosen), width), subject.encoder.pad_id, dtype=torch.long)
        attention = torch.zeros_like(ids)
        for b, tokens in enumerate(shown):  # padded on the left, as decoding needs
            ids[b, width - len(tokens):] = torch.tensor(tokens)
            attention[b, width - len(tokens):] = 1
        room = max(most - len(known[i]) for i in chosen)
        room = room if context is None else min(room, context - width)
        said = _decoded(subject, ids.to(subject.device), attention.to(subject.device), max(room, 1), stops, options)
        for i, row in zip(chosen, said, strict=True):
            known[i] += row[: most - len(known[i])]
        if progress:
            progress(len(chosen))
    ends = [next((t for t, token in enumerate(tokens) if token in stops), None) for tokens in known]
    return [(tokens[:end], end is not None) for tokens, end in zip(known, ends, strict=True)]


def _is_plain(subject: CausalLM) -> bool:
    """Whether it says the token that scores best every time: no other way of decoding, no rule of its own, no hook."""
    return subject.decode is None and subject.bare and getattr(subject.model, "decodes_as_it_scores", True) and (
        not _rules(subject))


def _rules(subject: CausalLM) -> set[str]:
    """Settings of the model's own that may change which token is said."""
    own = getattr(subject.model, "generation_config", None)
    named = own.to_diff_dict().keys() - HARMLESS if own is not None else set()
    return {name for name in named if not name.startswith(("_", "output_", "return_"))}


def _decoded(subject: CausalLM, ids_BT: Tensor, attention_BT: Tensor, room: int, stops: set[int],
             options: dict[str, Any]) -> list[list[int]]:
    """New tokens of every row. Greedy rows that have ended leave the batch after every `STRETCH` tokens.

    Not where a hook looks on, where the model's own settings may ask where the decoding began, or where it keeps no
    keys and values.
    """
    from expunge.models.fast.room import preallocate

    def at_once() -> list[list[int]]:
        out = (subject.decode or subject.model.generate)(
            input_ids=ids_BT, attention_mask=attention_BT, max_new_tokens=room, **options)
        return list(out[:, ids_BT.shape[1]:].tolist())

    if subject.decode is not None or options["do_sample"] or not stops or _rules(subject) - LOCAL or not subject.bare:
        return at_once()
    said: list[list[int]] = [[] for _ in ids_BT]
    left, cache = list(range(len(said))), None
    for stretch in chain([1], repeat(STRETCH)):  # the first token is said to be given a cache
        found = subject.model.generate(
            input_ids=ids_BT, attention_mask=attention_BT, past_key_values=cache, return_dict_in_generate=True,
            max_new_tokens=min(stretch, room - len(said[left[0]])), **options)
        cache = found.past_key_values
        if not is_by_row(cache):
            return at_once()
        preallocate(cache)
        fresh = found.sequences[:, ids_BT.shape[1]:]
        for b, row in zip(left, fresh.tolist(), strict=True):
            said[b] += row
        going = [k for k, b in enumerate(left) if stops.isdisjoint(said[b]) and len(said[b]) < room]
        if not going:
            break
        chosen = torch.tensor(going, device=ids_BT.device)
        if len(going) < len(left):
            select(cache, chosen, len(left))
        left = [left[k] for k in going]
        ids_BT = found.sequences[chosen]
        attention_BT = torch.cat([attention_BT[chosen], attention_BT.new_ones(len(going), fresh.shape[1])], 1)
    return said


def stop_ids(subject: CausalLM) -> set[int]:
    """End tokens: the tokenizer's, and those the model's generation config names."""
    named = getattr(subject.model.generation_config, "eos_token_id", None)
    ids = {named} if isinstance(named, int) else set(named or ())
    return ids | ({subject.encoder.eos_id} if subject.encoder.eos_id is not None else set())
