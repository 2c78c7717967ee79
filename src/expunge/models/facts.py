"""How likely a model finds a fact in a context: the words of the fact alone, given the prompt and the answer before."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from expunge.data.word_tokens import marked_tokens
from expunge.errors import DataError
from expunge.models.language import CausalLM
from expunge.records.task import Example


def fact_logps(subject: CausalLM, rows: Sequence[Example], progress: Callable[[int], None] | None = None
               ) -> list[float]:
    """log p of each row's bare fact where it last stands in the answer, given all before it; no gradient.

    A fact of several tokens has the product of their probabilities. Rows end with the fact (`leading_to`).
    """
    encoded, found = [subject.encoder.encode(row) for row in rows], [0.0] * len(rows)
    marks = [marked_tokens(tokens, (row.short_answer,), subject.encoder.processor, last=True)
             for row, tokens in zip(rows, encoded, strict=True)]
    if cut := [row.id for row, mark in zip(rows, marks, strict=True) if not any(mark)]:
        raise DataError(f"Row {cut[0]!r} does not hold its bare fact when the model reads it.",
                        "The row is longer than the model reads, so the fact is cut off.", "Shorten the row, or leave "
                        "it out.")
    with subject.evaluating():
        for chosen in subject.encoder.batches(encoded):
            answers = subject.answers(subject.collate([encoded[i] for i in chosen]))
            marked_N = torch.tensor([mark for i in chosen for mark in marks[i]], device=answers.logp_N.device)
            sums_B = answers.per_row(answers.logp_N.where(marked_N, 0.0))
            for i, value in zip(chosen, sums_B.tolist(), strict=True):
                found[i] = value
            if progress:
                progress(len(chosen))
    return found
