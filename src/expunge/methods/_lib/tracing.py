"""Causal tracing: how much of an answer each block's MLP brings back once the prompt is made unreadable.

Source: Meng et al. 2022 (arXiv 2202.05262). Legend: B rows, T padded length, D hidden size, L blocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from expunge.data.text_encoder import TokenBatch, TokenRow
from expunge.models.answers import Answers
from expunge.models.language import CausalLM
from expunge.models.sites import Site, read, write
from expunge.seeding import derive


def effects(subject: CausalLM, rows: Sequence[TokenRow], noise: float = 3.0, seed: int = 0) -> Tensor:
    """Mean probability of the answer tokens with a block's MLP restored, less that without; shape L.

    Embeddings of the prompt get normal noise of `noise` standard deviations. Then the MLP output of one block at these
    positions is put back to what it is without noise. Of running text every token but the first counts as prompt.
    """
    total_L, depth = torch.zeros(len(subject.blocks), dtype=torch.float64), len(subject.blocks)
    with subject.evaluating():
        for part in subject.encoder.batches(rows):
            batch = subject.collate([rows[i] for i in part])
            hidden_BT = _hidden(batch)
            sites = [Site(slot="embedding"), *(Site(block, "mlp") for block in range(depth))]
            with read(subject, sites) as values:
                subject.answers(batch)
            embedded_BTD, *clean = (kept[-1] for kept in values)
            spread = embedded_BTD[batch.attention_BT.bool()].float().std()
            change_BTD = noise * spread * _noise(batch, embedded_BTD.shape[-1], seed).to(embedded_BTD)
            with write(subject, Site(slot="embedding"), partial(_added, change_BTD * hidden_BT[..., None])):
                lost_B = _said(subject.answers(batch))
                for block, clean_BTD in enumerate(clean):
                    with write(subject, Site(block, "mlp"), partial(_restored, clean_BTD, hidden_BT)):
                        total_L[block] += float((_said(subject.answers(batch)) - lost_B).sum())
    return total_L / max(len(rows), 1)


def best_window(effects_L: Tensor, width: int) -> range:
    """The `width` blocks in a row (all of a shorter model) whose effects add up to most."""
    width = min(width, len(effects_L))
    start = int(effects_L.unfold(0, width, 1).sum(1).argmax())
    return range(start, start + width)


def _hidden(batch: TokenBatch) -> Tensor:
    """Positions that are made unreadable, bool, shape B T; never the first, which many heads rest on."""
    chosen_BT = torch.zeros_like(batch.attention_BT, dtype=torch.bool)
    for b, row in enumerate(batch.rows):
        chosen_BT[b, 1: row.prompt if row.prompt > 1 else len(row.ids)] = True
    return chosen_BT


def _noise(batch: TokenBatch, size: int, seed: int) -> Tensor:
    """Normal numbers, the same for a row whatever stands beside it; shape B T D."""
    drawn_BTD = torch.zeros(*batch.ids_BT.shape, size)
    for b, row in enumerate(batch.rows):
        generator = torch.Generator().manual_seed(derive(seed, "tracing", row.key))
        drawn_BTD[b, : len(row.ids)] = torch.randn(len(row.ids), size, generator=generator)
    return drawn_BTD


def _added(change_BTD: Tensor, given: Tensor, value_BTD: Tensor) -> Tensor:
    return value_BTD + change_BTD


def _restored(clean_BTD: Tensor, hidden_BT: Tensor, given: Tensor, value_BTD: Tensor) -> Tensor:
    return clean_BTD.where(hidden_BT[..., None], value_BTD)


def _said(answers: Answers) -> Tensor:
    """Mean probability of each row's answer tokens, shape B."""
    return answers.row_means(answers.logp_N.exp())
