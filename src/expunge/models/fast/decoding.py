"""Two tricks of decoding: tokens that are known are not decoded, and rows that have ended leave the batch.

Legend: B rows, T padded length.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain, repeat
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from expunge.models import fast

if TYPE_CHECKING:
    from expunge.models.language import CausalLM

STRETCH = 32
"""Tokens that are decoded before rows that have ended leave the batch."""
NEUTRAL = {"transformers_version", "bos_token_id", "eos_token_id", "pad_token_id", "max_length", "max_new_tokens",
           "do_sample", "temperature", "top_p", "top_k", "use_cache"}
"""Settings of a model's own decoding that do not change which token is likeliest."""
LOCAL = {"repetition_penalty", "no_repeat_ngram_size", "bad_words_ids", "suppress_tokens"}
"""Settings that change it, but look at the tokens alone and not at where decoding began."""


def may_begin(subject: CausalLM, prompts: Sequence[Sequence[int]], most: int, way: dict[str, Any]) -> bool:
    """Whether decoding may begin behind tokens that the likelihoods say come first.

    Only for greedy decoding in the model's own way, without rules of its own and without hooks, and with room in the
    context: rows of a batch that are ahead are decoded on until the last one is through.
    """
    context = subject.context
    fits = context is None or all(len(prompt) + 2 * most <= context for prompt in prompts)
    return fits and not way["do_sample"] and subject.decode is None and subject.bare and getattr(
        subject.model, "decodes_as_it_scores", True) and not _rules(subject)


def in_stretches(subject: CausalLM, ids_BT: Tensor, attention_BT: Tensor, room: int, stops: set[int],
                 options: dict[str, Any]) -> list[list[int]] | None:
    """New tokens of every row, decoded greedily `STRETCH` at a time; rows that have ended leave in between.

    Returns None where that may change a token: the model decodes in another way, samples, has hooks, has settings that
    ask where decoding began, or keeps no cache of keys and values.
    """
    if subject.decode is not None or options["do_sample"] or not stops or _rules(subject) - LOCAL or not subject.bare:
        return None
    said: list[list[int]] = [[] for _ in ids_BT]
    left, cache = list(range(len(said))), None
    for stretch in chain([1], repeat(STRETCH)):  # one token first, to be given a cache
        found = subject.model.generate(
            input_ids=ids_BT, attention_mask=attention_BT, past_key_values=cache, return_dict_in_generate=True,
            max_new_tokens=min(stretch, room - len(said[left[0]])), **options)
        cache = found.past_key_values
        if not is_by_row(cache):
            return None
        if fast.enabled("preallocated_cache"):
            from expunge.models.fast.preallocated import preallocate

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


def _rules(subject: CausalLM) -> set[str]:
    """Settings of the model's own decoding that may change which token is said."""
    own = getattr(subject.model, "generation_config", None)
    named = own.to_diff_dict().keys() - NEUTRAL if own is not None else set()
    return {name for name in named if not name.startswith(("_", "output_", "return_"))}


def is_by_row(cache: Any) -> bool:
    """Whether a cache holds keys and values of every row and nothing else, so that rows can be picked from it."""
    layers = getattr(cache, "layers", None) or ()
    return bool(layers) and hasattr(cache, "batch_select_indices") and all(
        isinstance(getattr(layer, "keys", None), Tensor) and not hasattr(layer, "conv_states") for layer in layers)


def select(cache: Any, chosen: Tensor, rows: int) -> None:
    """Pick rows of a cache of `rows` rows, in place; an ensemble has a stack of them for each member."""
    members = len(cache.layers[0].keys) // rows
    cache.batch_select_indices(torch.cat([chosen + k * rows for k in range(members)]))
