"""Which answer tokens stand for given words. Legend: N supervised tokens (flat)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from expunge.data.text_encoder import TokenRow


def marked_tokens(row: TokenRow, words: Sequence[str], processor: Any, *, last: bool = False) -> list[bool]:
    """One value per supervised token: whether any character of a word is in it. End tokens are never marked.

    Words are searched in the decoded answer, case and all. With `last` only where the last of them stands counts.
    """
    ids = row.ids[row.prompt: row.prompt + row.answer]
    texts = [processor.decode(ids[:end], clean_up_tokenization_spaces=False) for end in range(len(ids) + 1)]
    spans = [m.span() for word in words if word for m in re.finditer(re.escape(word), texts[-1])]
    spans = sorted(spans)[-1:] if last else spans
    # A token that ends inside a character adds none of its own: it counts with the character it is a part of.
    marks = [any(len(before) < end and max(len(after), len(before) + 1) > start for start, end in spans)
             for before, after in pairwise(texts)]
    return marks + [False] * row.end
