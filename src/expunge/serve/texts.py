"""Tokens of one choice to the text that a client sees, piece by piece."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any

HALF = "\ufffd"
"""What a decoder writes for a character of which tokens are missing."""


class Pieces:
    """The text of one choice, as its tokens come.

    Half a character waits for its other half, and the beginning of a stop string for what follows it. All pieces
    together are the whole text.

    Args:
        decode: tokens to text.
        stops: strings before which the text ends.
        strip: leave out spaces before the first word.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str], stops: Sequence[str], strip: bool) -> None:
        self._decode, self._stops, self._strip = decode, stops, strip
        self.sent = ""
        self.stopped = False
        """Whether a stop string came."""

    def feed(self, tokens: Sequence[int]) -> str:
        """The piece that all tokens so far add."""
        text = self._cut(self._decode(tokens))
        if not self.stopped:
            text = text.rstrip(HALF)
            text = text[: len(text) - self._beginning(text)]
        return self._send(text)

    def close(self, text: str) -> str:
        """The last piece, where this is the whole text."""
        return self._send(self._cut(text))

    def _send(self, text: str) -> str:
        piece = text[len(self.sent):] if text.startswith(self.sent) else ""
        self.sent += piece
        return piece

    def _cut(self, text: str) -> str:
        text = text.lstrip(" \t") if self._strip else text
        found = [at for at in (text.find(stop) for stop in self._stops) if at >= 0]
        if found:
            self.stopped = True
            return text[: min(found)]
        return text

    def _beginning(self, text: str) -> int:
        """Characters at the end that may be the beginning of a stop string."""
        return max((size for stop in self._stops for size in range(1, len(stop)) if text.endswith(stop[:size])),
                   default=0)


def decoder(processor: Any) -> Callable[[Sequence[int]], str]:
    """Tokens to text as they stand: no special tokens, no white space removed."""
    def decode(tokens: Sequence[int]) -> str:
        return str(processor.decode(list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False))

    return decode


def spelled(processor: Any, ids: Sequence[int], text: str, special: bool) -> tuple[list[str], list[int]]:
    """The text of every token of a prompt, and the character it begins at; special tokens are written out.

    Args:
        text: what the ids were made of.
        special: whether the tokenizer added its own tokens.
    """
    if getattr(processor, "is_fast", False):
        found = processor(text, add_special_tokens=special, return_offsets_mapping=True)
        if list(found["input_ids"])[: len(ids)] == list(ids):
            spans = found["offset_mapping"][: len(ids)]
            return ([text[a:b] or one(processor, i) for i, (a, b) in zip(ids, spans, strict=True)],
                    [a for a, _ in spans])
    words = [one(processor, i) for i in ids]
    return words, [min(at, len(text)) for at in accumulate((len(word) for word in words[:-1]), initial=0)]


def one(processor: Any, token: int) -> str:
    """A token by itself."""
    return str(processor.decode([token], clean_up_tokenization_spaces=False))
