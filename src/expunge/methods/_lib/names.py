"""Names in a text, and which tokens of an answer say true or false ones. Legend: N supervised tokens (flat)."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any

from expunge.data.chat import common
from expunge.data.text_encoder import TokenRow
from expunge.errors import DataError, MissingError

NAME = r"[A-Z][\w'-]*(?: [A-Z][\w'-]*)*"
"""Words in a row that begin with a capital letter."""
OTHER, TRUE, FALSE = 0, 1, 2


def names_in(texts: Iterable[str], pattern: str = NAME) -> set[str]:
    """Every name in these texts."""
    return {match.group() for text in texts for match in re.finditer(pattern, text)}


def read_names(path: Path) -> list[str]:
    """The names of a file, one per line. Raises MissingError without a file, and DataError without a name in it."""
    if not path.is_file():
        raise MissingError(f"The file of known names {path} does not exist.", "It should hold one name per line.",
                           "Check the path; a relative path starts at the working directory.")
    names = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    if not names:
        raise DataError(f"{path} holds no name.", fix="Write one name per line.")
    return names


def token_roles(row: TokenRow, known: Collection[str], processor: Any, pattern: str = NAME) -> list[int]:
    """OTHER, TRUE or FALSE for every supervised token of an answer.

    TRUE: tokens of known names, and what ends the answer. FALSE: tokens of unknown names, without those that lie in
    what the name shares with the beginning of a known one; if all do, the last one.
    """
    ids = row.ids[row.prompt: row.prompt + row.answer]
    texts = [processor.decode(ids[:end], clean_up_tokenization_spaces=False) for end in range(len(ids) + 1)]
    roles = [OTHER] * len(ids)
    spans = [(len(before), max(len(after), len(before) + 1)) for before, after in pairwise(texts)]
    for match in re.finditer(pattern, texts[-1]):
        start, end = match.span()
        inside = [i for i, (first, last) in enumerate(spans) if first < end and last > start]
        if match.group() in known:
            marked, role = inside, TRUE
        else:
            shared = start + max((common(match.group(), other) for other in known), default=0)
            marked, role = [i for i in inside if spans[i][1] > shared] or inside[-1:], FALSE
        for i in marked:
            roles[i] = role
    return roles + [TRUE] * row.end
