"""A sharded model that decides between two answers by a table over the votes of its shards.

Legend: N rows or supervised tokens, S shards, T length, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from expunge.errors import DataError, UsageError
from expunge.exact.ensemble import SisaConfig, SisaForCausalLM
from expunge.models.language import CausalLM
from expunge.records.task import Example
from expunge.seeding import stream

Attribute = Literal["group", "entity"]


class FairSisaConfig(SisaConfig):
    """As its parent's, with the table of the post-processor."""

    model_type = "expunge_fair_sisa"

    def __init__(self, fairness: dict[str, Any] | None = None, **options: Any) -> None:
        """`fairness` has the attribute, its two values, the two answers and the table: values x vote vectors."""
        self.fairness = fairness or {}
        super().__init__(**options)


class FairSisaForCausalLM(SisaForCausalLM):
    """Predicts the average of its shards; `decide` makes fair decisions of their votes."""

    config_class = FairSisaConfig


def labelled(rows: Sequence[Example], attribute: Attribute) -> list[Example]:
    """The rows that have the attribute: those that a decision is about."""
    return [row for row in rows if getattr(row, attribute)]


def votes(subject: CausalLM, rows: Sequence[Example], answers: Sequence[str]) -> np.ndarray:
    """Which of two answers every shard finds likelier (0 or 1; 0 when alike): shape N S."""
    sums = []
    for answer in answers:
        asked = [subject.encoder.encode(row.model_copy(update={"answer": answer, "short_answer": "", "options": ()}))
                 for row in rows]
        sums.append(torch.stack([_logp_of_shards(subject, row) for row in asked]))
    found: np.ndarray = (sums[1] > sums[0]).long().cpu().numpy()
    return found


@torch.no_grad()
def _logp_of_shards(subject: CausalLM, row: Any) -> torch.Tensor:
    """Log-probability of a row's answer, shape S."""
    batch = subject.encoder.collate([row]).to(subject.device)
    shards = subject.model.config.shards
    logits_STV = subject.model.base(input_ids=batch.ids_BT.repeat(shards, 1),
                                    attention_mask=batch.attention_BT.repeat(shards, 1)).logits
    logp_SNV = logits_STV[:, batch.flat_N].float().log_softmax(-1)
    return logp_SNV.gather(-1, batch.target_N.expand(shards, -1)[..., None])[..., 0].sum(-1)


def decide(subject: CausalLM, rows: Sequence[Example], seed: int = 0) -> list[str]:
    """The fair answers to some rows: drawn by the table, each by a stream of its own id.

    Raises:
        UsageError: the model has no table.
        DataError: a row's attribute has a value that the table does not know.
    """
    table = getattr(subject.model.config, "fairness", None)
    if not table:
        raise UsageError("This model decides nothing.", "It was not trained by fair_sisa.")
    unknown = sorted({getattr(row, table["attribute"]) for row in rows} - set(table["values"]))
    if unknown:
        raise DataError(f"The {table['attribute']} {unknown[0]!r} is none of {', '.join(table['values'])}.",
                        "A decision needs the attribute it was made fair for.")
    votes_NS = votes(subject, rows, table["answers"])
    vectors = votes_NS @ (1 << np.arange(votes_NS.shape[1]))
    chances = [table["table"][table["values"].index(getattr(row, table["attribute"]))][v]
               for row, v in zip(rows, vectors, strict=True)]
    return [table["answers"][int(stream(seed, "fair", row.id).random() < p)]
            for row, p in zip(rows, chances, strict=True)]


AutoConfig.register(FairSisaConfig.model_type, FairSisaConfig, exist_ok=True)
AutoModelForCausalLM.register(FairSisaConfig, FairSisaForCausalLM, exist_ok=True)
