"""Whether rows of tokens fit a model, found before any of them is read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from expunge.data.model_config import context_of, vocabulary_of
from expunge.errors import DataError

if TYPE_CHECKING:
    from expunge.data.text_encoder import TokenRow


def check_rows(rows: Sequence[TokenRow], config: Any, what: str) -> list[DataError]:
    """Why these rows cannot go through a model of this config; empty when they can."""
    found = [check_lengths(rows, context_of(config), what)]
    size = vocabulary_of(config)
    if size is not None and any(max(r.ids, default=0) >= size for r in rows):
        found.append(DataError(f"The tokenizer does not fit the model: it makes ids up to "
                               f"{max(max(r.ids, default=0) for r in rows)}, the model knows {size}.",
                               "", "Use the tokenizer that the model was trained with."))
    lost = [r.id for r in rows if r.answer + r.end == 0]
    if lost:
        found.append(DataError(f"--max-length leaves {len(lost)} {what} rows without an answer, such as {lost[0]}.",
                               "", "Use a larger --max-length."))
    return [problem for problem in found if problem is not None]


def check_lengths(rows: Sequence[TokenRow], context: int | None, what: str) -> DataError | None:
    """Rows that do not fit the model, as an error to collect; None when all fit."""
    if context is None:
        return None
    long = [r for r in rows if len(r.ids) > context]
    if not long:
        return None
    return DataError(
        f"{len(long)} of {len(rows)} {what} rows are longer than the model's context of {context} tokens.",
        f"The longest is {long[0].id} with {max(len(r.ids) for r in long)} tokens." if len(long) == 1
        else f"The longest has {max(len(r.ids) for r in long)} tokens; the first is {long[0].id}.",
        f"Pass --max-length {context} to cut them.",
    )
