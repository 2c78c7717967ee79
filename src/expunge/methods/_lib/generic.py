"""What a model would say that had not read the text: WHP's generic predictions, token by token.

Source: Eldan and Russinovich 2023, Who's Harry Potter? (arXiv 2310.02238), section 2.

Legend: N supervised tokens (flat), V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from expunge.data.text_encoder import TextEncoder, TokenRow
from expunge.errors import DataError, MissingError
from expunge.models.subject import Subject
from expunge.records.base import read_json

Terms = Mapping[tuple[int, ...], tuple[str, tuple[int, ...]]]
"""Tokens of a term -> its name, and the tokens of the generic term for it."""
UNCOUNTED = -1


def generic_logits(base: Tensor, reinforced: Tensor, alpha: float) -> Tensor:
    """z_base - alpha * ReLU(z_reinforced - z_base), elementwise, of any shape.

    z_base to the bit wherever reinforcement did not raise a logit, and everywhere with alpha 0.
    """
    return torch.where(reinforced > base, base - alpha * (reinforced - base), base)


def read_terms(path: Path) -> dict[str, str]:
    """Term -> generic term, from a JSON object.

    Raises:
        DataError: the file is something else, or a term is empty.
        MissingError: there is no such file.
    """
    if not path.is_file():
        raise MissingError(f"The file of anchor terms {path} does not exist.",
                           "It would be a JSON object of terms and their generic names.",
                           "Check the path; a relative one starts where the command is run.")
    given = read_json(path)
    if not isinstance(given, dict) or not all(isinstance(v, str) and k.strip() and v.strip() for k, v in given.items()):
        raise DataError(f"{path} is no list of anchor terms.", 'It should be {"term": "generic term", ...}.')
    return {term.strip(): generic.strip() for term, generic in given.items()}


def spell(named: Mapping[str, str], tokens: TextEncoder) -> Terms:
    """Terms as tokens, with and without a space before."""

    def ids(text: str) -> tuple[int, ...]:
        return tuple(tokens.processor(text, add_special_tokens=False)["input_ids"])

    return {ids(space + term): (term, ids(space + generic)) for term, generic in named.items() for space in ("", " ")}


def translate(ids: Sequence[int], terms: Terms) -> tuple[list[int], list[int]]:
    """`ids` in generic terms, and for every token of `ids` its place there.

    Terms are found token by token, the longest first. `UNCOUNTED` stands for tokens without a counterpart:
    those of a term after its first, and all of a term that was mentioned before.
    """
    found: list[int] = []
    places: list[int] = []
    mentioned: set[str] = set()
    longest_first = sorted(terms, key=len, reverse=True)
    while len(places) < len(ids):
        at = len(places)
        term = next((t for t in longest_first if tuple(ids[at: at + len(t)]) == t), None)
        if term is None:
            places.append(len(found))
            found.append(ids[at])
            continue
        name, generic = terms[term]
        places += [UNCOUNTED if name in mentioned else len(found)] + [UNCOUNTED] * (len(term) - 1)
        found += generic
        mentioned.add(name)
    return found, places


def generic_targets(base: Subject, reinforced: Subject, rows: Sequence[TokenRow], alpha: float,
                    terms: Terms) -> dict[str, list[int]]:
    """Key of each row -> the likeliest generic token in the place of each supervised one, or `UNCOUNTED`.

    The base reads the row in generic terms, the reinforced model reads it as it is.
    """
    read = [translate(row.ids, terms) for row in rows]
    whole = [TokenRow(row.id, tuple(ids), 1, len(ids) - 1, 0) for row, (ids, _) in zip(rows, read, strict=True)]
    with base.evaluating(), reinforced.evaluating():
        base_NV = base.answers(base.collate(whole)).logits_NV.float()
        reinforced_NV = reinforced.answers(reinforced.collate(rows)).logits_NV.float()
    found = {}
    for row, (_, places), before, after in zip(rows, read, base_NV.split([r.answer for r in whole]),
                                               reinforced_NV.split([r.answer + r.end for r in rows]), strict=True):
        place_N = torch.tensor(places[row.prompt:], device=before.device)
        # The token at place p is predicted at p - 1, and the first that is predicted is that at 1.
        best_N = generic_logits(before[(place_N - 1).clamp_min(0)], after, alpha).argmax(-1)
        found[row.key] = best_N.where(place_N != UNCOUNTED, UNCOUNTED).tolist()
    return found
