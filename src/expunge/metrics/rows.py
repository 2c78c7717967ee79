"""Likelihood rows: token values without end tokens, and rows grouped by example."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from expunge.errors import DataError
from expunge.metrics.base import NotAvailable
from expunge.records.observation import Row

LOWEST = -1e5
"""Nats. A token with probability 0 (a decoding guard can rule it out) counts as this, so that
ratios of two impossible answers stay defined; exp() of it is 0 in double precision."""


def all_values(row: Row, key: str) -> NDArray[np.float64]:
    """Values of `key` per answer token, with the end tokens."""
    return _values(row, key)


def text_values(row: Row, key: str) -> NDArray[np.float64]:
    """Values of `key` per answer token, without the end tokens."""
    return _values(row, key)[: len(row["logp"]) - row["end"]]


def mean_logp(row: Row) -> float | None:
    """log p_bar = -L(y|x): mean log p over the answer *and* its end token, in nats per token, as
    TOFU takes it. None when the row has no token."""
    values = _values(row, "logp")
    return float(values.mean()) if len(values) else None


def _values(row: Row, key: str) -> NDArray[np.float64]:
    values = np.asarray(row[key], dtype=float)
    if np.isnan(values).any():
        raise NotAvailable(f"{key} of row {row['id']!r} is not a number (NaN): the model is broken there")
    return np.maximum(values, LOWEST) if key == "logp" else values


@dataclass
class RowForms:
    """log p_bar of every form of one example, or another log p of it; rows without a token are left out."""

    group: str
    answer: float | None = None
    paraphrases: list[float] = field(default_factory=list)
    wrong: list[float] = field(default_factory=list)
    options: list[tuple[float, bool]] = field(default_factory=list)
    """(log p_bar, whether the option is right)."""


def by_example(rows: Iterable[Row], log_p: Callable[[Row], float | None] = mean_logp) -> dict[str, RowForms]:
    """Likelihood rows gathered by example id, in the order in which ids first appear.

    Args:
        log_p: the number that is kept of each row; None leaves it out.
    """
    examples: dict[str, RowForms] = {}
    answered: set[str] = set()
    for row in rows:
        example = examples.setdefault(row["id"], RowForms(row["group"]))
        value, form = log_p(row), row["form"]
        if form == "answer":
            if row["id"] in answered:
                raise DataError(f"Two examples of one split share the id {row['id']!r}.",
                                "Their paraphrases and wrong answers cannot be assigned.")
            answered.add(row["id"])
            example.answer = value
        elif value is not None and form == "paraphrase":
            example.paraphrases.append(value)
        elif value is not None and form == "wrong":
            example.wrong.append(value)
        elif value is not None and form == "option":
            example.options.append((value, bool(row["correct"])))
    return examples


def column(values: Sequence[float] | dict[str, float], missing: str) -> NDArray[np.float64]:
    """An array of at least one number; raises NotAvailable with `missing` when there is none."""
    numbers = list(values.values()) if isinstance(values, dict) else list(values)
    if not numbers:
        raise NotAvailable(missing)
    return np.asarray(numbers, dtype=float)
