"""Generic predictions of WHP: token by token, what a model that had not read the text would predict.

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

    Equal to z_base bit for bit where reinforcement did not raise a logit, and everywhere for alpha 0.
    """
    return torch.where(reinforced > base, base - alpha * (reinforced - base), base)


def read_terms(path: Path) -> dict[str, str]:
    """Term -> generic term, from a JSON object.

    Raises:
        DataError: the file is not such an object, or a term is empty.
        MissingError: the file does not exist.
    """
    if not path.is_file():
        raise MissingError(f"The file of anchor terms {path} does not exist.",
                           "It should be a JSON object of terms and their generic names.",
                           "Check the path; a relative path starts at the working directory.")
    content = read_json(path)
    if not isinstance(content, dict) or not all(
            isinstance(v, str) and k.strip() and v.strip() for k, v in content.items()):
        raise DataError(f"{path} is not a list of anchor terms.", 'It should be {"term": "generic term", ...}.')
    return {term.strip(): generic.strip() for term, generic in content.items()}


def spell(named: Mapping[str, str], tokens: TextEncoder) -> Terms:
    """Terms as tokens, with and without a leading space."""

    def ids(text: str) -> tuple[int, ...]:
        return tuple(tokens.processor(text, add_special_tokens=False)["input_ids"])

    return {ids(space + term): (term, ids(space + generic)) for term, generic in named.items() for space in ("", " ")}


def translate(ids: Sequence[int], terms: Terms) -> tuple[list[int], list[int]]:
    """`ids` with generic terms in place of `terms`, and the position of every token of `ids` in the result.

    Terms are matched on tokens, the longest first. Tokens without a counterpart have position `UNCOUNTED`:
    those of a term after its first token, and all of a term that occurred before.
    """
    translated: list[int] = []
    places: list[int] = []
    mentioned: set[str] = set()
    longest_first = sorted(terms, key=len, reverse=True)
    while len(places) < len(ids):
        at = len(places)
        term = next((t for t in longest_first if tuple(ids[at: at + len(t)]) == t), None)
        if term is None:
            places.append(len(translated))
            translated.append(ids[at])
            continue
        name, generic = terms[term]
        places += [UNCOUNTED if name in mentioned else len(translated)] + [UNCOUNTED] * (len(term) - 1)
        translated += generic
        mentioned.add(name)
    return translated, places


def generic_targets(base: Subject, reinforced: Subject, rows: Sequence[TokenRow], alpha: float,
                    terms: Terms) -> dict[str, list[int]]:
    """Key of each row -> the likeliest generic token for each supervised token, or `UNCOUNTED`.

    The base reads the row in generic terms, the reinforced model reads the original row.
    """
    translations = [translate(row.ids, terms) for row in rows]
    generic_rows = [TokenRow(row.id, tuple(ids), 1, len(ids) - 1, 0)
                    for row, (ids, _) in zip(rows, translations, strict=True)]
    with base.evaluating(), reinforced.evaluating():
        base_NV = base.answers(base.collate(generic_rows)).logits_NV.float()
        reinforced_NV = reinforced.answers(reinforced.collate(rows)).logits_NV.float()
    targets = {}
    for row, (_, places), before, after in zip(rows, translations, base_NV.split([r.answer for r in generic_rows]),
                                               reinforced_NV.split([r.answer + r.end for r in rows]), strict=True):
        place_N = torch.tensor(places[row.prompt:], device=before.device)
        # The token at position p is predicted at p - 1, and the first predicted token is at 1.
        best_N = generic_logits(before[(place_N - 1).clamp_min(0)], after, alpha).argmax(-1)
        targets[row.key] = best_N.where(place_N != UNCOUNTED, UNCOUNTED).tolist()
    return targets
