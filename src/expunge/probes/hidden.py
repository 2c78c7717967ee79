"""Pooled hidden states of some blocks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from expunge import plugin
from expunge.data.text_encoder import TokenBatch
from expunge.models.language import CausalLM
from expunge.plugin import Card, Property
from expunge.probes.base import Probe, Progress
from expunge.probes.residual import answerable, heading, rounded, states, watch
from expunge.records.observation import Row
from expunge.records.task import Example, Task

Pool = Literal["answer", "prompt", "last"]


def evenly(count: int, depth: int) -> list[int]:
    """At most `count` of `depth` blocks, evenly spaced, the last one among them."""
    count = min(count, depth)
    return [round((i + 1) * depth / count) - 1 for i in range(count)]


def pooling(batch: TokenBatch, pool: Pool) -> Callable[[Any], Tensor]:
    """Function from a block's output to one vector per row, float32, shape B D."""
    weight_BT = torch.zeros(batch.ids_BT.shape)
    for b, row in enumerate(batch.rows):
        first, after = row.prompt - 1, row.prompt + row.answer - 1
        if pool == "answer":  # the positions that predict the answer's tokens
            weight_BT[b, first:after] = 1 / row.answer
        else:
            weight_BT[b, first if pool == "prompt" else after] = 1

    def pooled(output: Any) -> Tensor:
        # An ensemble runs the batch once per member, stacked; its representation is the mean.
        members_SBTD = states(output).float().unflatten(0, (-1, len(batch)))
        return torch.einsum("sbtd,bt->bd", members_SBTD, weight_BT.to(members_SBTD)) / len(members_SBTD)
    return pooled


class Hidden(Probe):
    """One vector per row and block: the mean over the positions that predict the answer, or one position."""

    class Spec(plugin.Spec):
        layers: int = Field(8, ge=1, description="Maximum number of blocks, evenly spaced up to the last.")
        pool: Pool = Field("answer", description=(
            "answer: mean over the positions that predict the answer's tokens; prompt: the last token of the "
            "prompt, before the answer; last: the last token of the answer."))

    blocks_in = ()

    card = Card(
        name="hidden", kind="probe",
        summary="pooled hidden states after up to eight blocks",
        paper="arXiv 2503.06991 (features compared); arXiv 2605.01699 (states of linear probes)",
        formula="mean over t in answer of h_l[t - 1]",
        defaults="8 evenly spaced blocks, mean over the answer; 5 significant digits",
        model_needs=frozenset({"hidden"}),
        deviations=("The vision study pools over the image before the head, the probe study uses the last token of "
                    "the text (pool=last).",),
        memory="rows of 8 x hidden size numbers: about 40 kB per example at width 512",
    )
    must_show = (
        Property("hidden_matches_slow_twin", {}, "one row at a time, all hidden states of transformers, by hand"),
        Property("internals_ignore_padding_and_order", {}, "batch composition changes nothing"),
    )

    def observe(self, subject: CausalLM, examples: Sequence[Example], task: Task,
                progress: Progress | None = None, *, partner: CausalLM | None = None) -> list[Row]:
        tokens = [subject.encoder.encode(e) for e in examples]
        usable, layers = answerable(tokens), evenly(self.spec.layers, len(subject.blocks))
        rows: dict[int, Row] = {}
        with subject.evaluating():
            for chosen in subject.encoder.batches(tokens, usable):
                batch = subject.collate([tokens[i] for i in chosen])
                _, pooled = watch(subject, batch, pooling(batch, self.spec.pool), layers)
                for i, states_LD in zip(chosen, torch.stack(pooled, 1).cpu(), strict=True):
                    rows[i] = {**heading(examples[i]), "pool": self.spec.pool, "layers": layers,
                               "states": [rounded(state_D, 5) for state_D in states_LD]}
                if progress:
                    progress(len(chosen))
        return [rows[i] for i in usable]
