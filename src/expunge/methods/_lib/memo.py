"""MEMO: how much of a text a model reproduces from cuts along its length (arXiv 2409.11844)."""

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
"""suffix: cut the answer, after the whole question; prefix: cut the question."""


def positions(length: int, window: int = 5, most: int | None = None) -> list[int]:
    """Positions of the cuts in a text of `length` characters: 1, 1 + window, ...; at most `most`, evenly spaced."""
    every = list(range(1, length, window))
    if most is None or len(every) <= most:
        return every
    return [every[i * (len(every) - 1) // max(most - 1, 1)] for i in range(most)]


def cut(tokens: TextEncoder, row: Example, at: int, mode: Mode) -> tuple[tuple[int, ...], str]:
    """The token ids up to the cut, and the text after it."""
    if mode == "suffix":
        kept = tokens.encode(row, answer=row.answer[:at])
        return kept.ids[: kept.prompt + kept.answer], row.answer[at:]
    before, _, after = ("", "", "") if tokens.chat or row.kind != "qa" else tokens.template.partition("{prompt}")
    start = Example(id=row.id, prompt=before + row.prompt[:at], answer=row.answer, kind="completion")
    return tokens.prompt(start), f"{row.prompt[at:]}{after} {row.answer}"


def memo(subject: CausalLM, rows: Sequence[Example], *, mode: Mode = "suffix", share: Share = "precision",
         window: int = 5, cuts: int | None = None, max_new_tokens: int = 200, batch_size: int = 64,
         announce: Announce = silent) -> list[float]:
    """Mean ROUGE-1 (stemmed) of greedy continuations against the text after each cut, per row, in 0..1.

    Every cut costs a generation: `cuts` bounds their number per row, and equal prompts are generated once.
    Cuts without a letter or digit after them are skipped; a row without any other cut has 0.

    Args:
        rows: (question, answer) pairs; with mode="prefix" every row needs a question.
        share: precision as published, which long continuations lower; recall and f1 for comparison.
        window: characters between cuts.

    Raises:
        UsageError: mode="prefix" and a row without a question.
    """
    without_question = [row.id for row in rows if mode == "prefix" and not row.prompt]
    if without_question:
        raise UsageError(f"Row {without_question[0]} has no question to cut.", "MEMO in prefix mode cuts questions.",
                         "Use mode='suffix'.")
    prompts: list[list[tuple[tuple[int, ...], str]]] = []
    for row in rows:
        where = positions(len(row.answer if mode == "suffix" else row.prompt), window, cuts)
        pieces = [cut(subject.encoder, row, at, mode) for at in where]
        fitting = [pair for pair in pieces if subject.context is None or len(pair[0]) < subject.context]
        prompts.append([(ids, rest) for ids, rest in fitting if rouge(rest, "", "rouge1") is not None])
    distinct = list(dict.fromkeys(ids for pairs in prompts for ids, _ in pairs))
    answers = subject.generate(distinct, max_new_tokens, batch_size, announce("MEMO", len(distinct)))
    texts = {ids: text for ids, (text, _) in zip(distinct, answers, strict=True)}
    scores = [[rouge(rest, texts[ids], "rouge1", share) or 0.0 for ids, rest in pairs] for pairs in prompts]
    return [sum(row) / len(row) if row else 0.0 for row in scores]
