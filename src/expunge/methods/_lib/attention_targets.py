"""Attention maps in which some tokens are looked at less, or more, than the original does.

Source: Attention Shifting (arXiv 2510.17210).

Legend: B rows, H heads, T tokens.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor

from expunge.data.text_encoder import TokenRow
from expunge.models.head import raised
from expunge.models.language import CausalLM
from expunge.records.task import Example

Direction = Literal["forward", "reverse"]
WORD = re.compile(r"\w+")
FUNCTION_WORDS = frozenset(WORD.findall(
    "a about after all also am an and any are as at be because been before being between both but by can could did do "
    "does doing down during each either few for from further had has have having he her here hers herself him himself "
    "his how i if in into is it its itself just may me might more most must my myself neither no nor not of off on "
    "once one only or other our ours ourselves out over own same shall she should so some such than that the their "
    "theirs them themselves then there these they this those through to too under until up us very was we were what "
    "when where which while who whom whose why will with would you your yours yourself yourselves"))
"""English words that carry no content of their own."""


def content_words(row: Example) -> set[str]:
    """Words of prompt and answer that are not function words, in small letters: names, verbs, numbers and the like."""
    return {word.casefold() for text in (row.prompt, row.answer) for word in WORD.findall(text)} - FUNCTION_WORDS


def content_tokens(row: TokenRow, words: set[str], processor: Any) -> list[bool]:
    """One value per token of a row, prompt and all: whether a character of one of the words is in it."""
    texts = [processor.decode(row.ids[:end], clean_up_tokenization_spaces=False) for end in range(len(row.ids) + 1)]
    spans = [m.span() for m in WORD.finditer(texts[-1]) if m[0].casefold() in words]
    return [any(len(before) < end and len(after) > start for start, end in spans) for before, after in pairwise(texts)]


def marks_of(subject: CausalLM, examples: Sequence[Example]) -> dict[str, list[bool]]:
    """Key of each row -> its content tokens. Raises UsageError where the model gives no attention maps."""
    encoder = subject.encoder
    rows = [(encoder.encode(example), content_words(example)) for example in examples]
    with subject.evaluating():
        subject.attention(subject.collate([row for row, _ in rows[:1]]))
    return {row.key: content_tokens(row, words, encoder.processor) for row, words in rows}


def shifted(map_BHTT: Tensor, marked_BT: Tensor, change: float) -> Tensor:
    """Each row of a map with its marked columns times 1 + `change` (above -1), scaled to the same sum."""
    map_BHTT = raised(map_BHTT)
    changed_BHTT = map_BHTT * (1 + change * marked_BT[:, None, None].to(map_BHTT))
    sums = [m.sum(-1, keepdim=True) for m in (map_BHTT, changed_BHTT)]
    return changed_BHTT * (sums[0] / sums[1].clamp_min(torch.finfo(map_BHTT.dtype).tiny))


def map_divergence(targets: Sequence[Tensor], maps: Sequence[Tensor], kl: Direction = "forward") -> Tensor:
    """sum_t KL(target row t || map row t) in nats, mean over blocks and heads; shape B. Rows of padding are 0.

    "reverse" is KL(map row || target row). No gradient goes to the targets.
    """
    found = []
    for target_BHTT, map_BHTT in zip(targets, maps, strict=True):
        q, p = raised(target_BHTT).detach(), raised(map_BHTT)
        least = torch.finfo(p.dtype).tiny
        gap = q.clamp_min(least).log() - p.clamp_min(least).log()
        found.append((q * gap if kl == "forward" else -p * gap).sum((2, 3)).mean(1))
    return torch.stack(found).mean(0)


def marked(made: dict[str, Any], rows: Sequence[TokenRow], width: int, device: torch.device) -> Tensor:
    """The stored marks of a batch as bools of shape B T; padding is not marked."""
    padded = [[*made[row.key], *[False] * (width - len(row.ids))] for row in rows]
    return torch.tensor(padded, dtype=torch.bool, device=device)
