"""MEMO: how much of a text a model continues by heart, from cuts along the whole of it (arXiv 2409.11844)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from expunge.data.text_encoder import TextEncoder
from expunge.errors import UsageError
from expunge.metrics.text.rouge import Share, rouge
from expunge.models.language import CausalLM
from expunge.progress import Announce, silent
from expunge.records.task import Example

Mode = Literal["suffix", "prefix"]
"""Cut the answer behind its whole question, or cut the question."""


def positions(length: int, window: int = 5, most: int | None = None) -> list[int]:
    """Where a text of `length` characters is cut: 1, 1 + window, ...; thinned evenly to `most` of these."""
    every = list(range(1, length, window))
    if most is None or len(every) <= most:
        return every
    return [every[i * (len(every) - 1) // max(most - 1, 1)] for i in range(most)]


def cut(tokens: TextEncoder, row: Example, at: int, mode: Mode) -> tuple[tuple[int, ...], str]:
    """What the model reads up to the cut, as ids, and the text that follows."""
    if mode == "suffix":
        kept = tokens.encode(row, answer=row.answer[:at])
        return kept.ids[: kept.prompt + kept.answer], row.answer[at:]
    before, _, after = ("", "", "") if tokens.chat or row.kind != "qa" else tokens.template.partition("{prompt}")
    start = Example(id=row.id, prompt=before + row.prompt[:at], answer=row.answer, kind="completion")
    return tokens.prompt(start), f"{row.prompt[at:]}{after} {row.answer}"


def memo(subject: CausalLM, rows: Sequence[Example], *, mode: Mode = "suffix", share: Share = "precision",
         window: int = 5, cuts: int | None = None, max_new_tokens: int = 200, batch_size: int = 64,
         announce: Announce = silent) -> list[float]:
    """Mean ROUGE-1 (stemmed) of greedy continuations against what follows each cut, per row, in 0..1.

    One generation per cut is costly: `cuts` bounds their number per row, and a text that several cuts have in
    common is continued once. A cut behind which no word of a-z or 0-9 is left is passed over; a row of
    which nothing else is left has 0.

    Args:
        rows: (question, answer) pairs; with mode="prefix" every row needs a question.
        share: published is precision, which long continuations lower; recall and f1 are there to compare.
        window: characters between cuts.

    Raises:
        UsageError: mode="prefix" and a row without a question.
    """
    bare = [row.id for row in rows if mode == "prefix" and not row.prompt]
    if bare:
        raise UsageError(f"Row {bare[0]} has no question to cut.", "MEMO in prefix mode cuts questions.",
                         "Use mode='suffix'.")
    asked: list[list[tuple[tuple[int, ...], str]]] = []
    for row in rows:
        where = positions(len(row.answer if mode == "suffix" else row.prompt), window, cuts)
        found = [cut(subject.encoder, row, at, mode) for at in where]
        room = [pair for pair in found if subject.context is None or len(pair[0]) < subject.context]
        asked.append([(ids, rest) for ids, rest in room if rouge(rest, "", "rouge1") is not None])
    distinct = list(dict.fromkeys(ids for pairs in asked for ids, _ in pairs))
    said = subject.generate(distinct, max_new_tokens, batch_size, announce("MEMO", len(distinct)))
    texts = {ids: text for ids, (text, _) in zip(distinct, said, strict=True)}
    scores = [[rouge(rest, texts[ids], "rouge1", share) or 0.0 for ids, rest in pairs] for pairs in asked]
    return [sum(found) / len(found) if found else 0.0 for found in scores]
