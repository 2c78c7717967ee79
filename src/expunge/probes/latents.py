"""States of a subject with latents of the original in them, and what the subject says on these.

Legend: B rows, T padded length, D hidden size, F latents.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from expunge.data.text_encoder import TokenBatch
from expunge.errors import UsageError
from expunge.models.answers import per_row
from expunge.models.language import CausalLM
from expunge.models.sites import Site, write
from expunge.models.sparse_autoencoder import SAE

STRENGTHS = (0.25, 0.5, 0.75, 1.0)


def restored(sae: SAE, own: Tensor, original: Tensor, chosen_F: Tensor, strength: float) -> Tensor:
    """decode(z + a (z_original - z) where chosen) + (1 - a) (h - decode(z)), shape ... D: the states as they are at
    strength 0; what the autoencoder cannot express of them fades, and at 1 only latents are left."""
    if strength == 0:
        return own
    latents = sae.encode(own)
    mixed = latents + strength * (sae.encode(original) - latents) * chosen_F
    return (sae.decode(mixed) + (1 - strength) * (own - sae.decode(latents))).to(own.dtype)


def experts(forget_ND: Tensor, others_ND: Tensor, sae: SAE, share: float) -> Tensor:
    """The latents that are active more often on forget rows than on others, the given share of all; bool, shape F."""
    forget_F, others_F = ((sae.encode(states) > 0).float().mean(0) for states in (forget_ND, others_ND))
    best = (forget_F - others_F).topk(max(round(share * sae.latents), 1)).indices
    return torch.zeros(sae.latents, dtype=torch.bool).scatter(0, best.cpu(), True)


def observed(subject: CausalLM, original: CausalLM, batch: TokenBatch, spans: Sequence[range], block: int, sae: SAE,
             expert_F: Tensor, random_F: Tensor) -> dict[str, Tensor]:
    """Mean log-probs of the fact tokens by way of running, shape B or B x strengths, and the share of the states'
    variance that the autoencoder explains, shape B."""
    batch, sae = batch.to(subject.device), sae.to(subject.device)
    states_BTD = original.hidden(batch.to(original.device), block).to(subject.device)
    own_BTD = subject.hidden(batch, block)
    fact_BT = torch.zeros_like(batch.attention_BT, dtype=torch.bool)
    for b, (row, span) in enumerate(zip(batch.rows, spans, strict=True)):
        fact_BT[b, row.prompt + span.start - 1: row.prompt + span.stop - 1] = True
    fact_N = fact_BT.flatten()[batch.flat_N]

    def said(model: CausalLM, change: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        def replace(given: Any, value: Tensor) -> Tensor:
            if len(value) != len(batch):
                raise UsageError("restoration needs a subject and an original that are single models.",
                                 "An ensemble has as many hidden states as members.")
            return value if change is None else torch.cat([value[:, :1], change(value)[:, 1:]], 1)

        with write(model, Site(block), replace):
            answers = model.answers(batch.to(model.device))
        logp_N = answers.logp_N.to(fact_N.device).where(fact_N, 0.0)
        return per_row(logp_N, batch) / per_row(fact_N.float(), batch)

    def put(chosen_F: Tensor, strength: float) -> Tensor:
        chosen_F = chosen_F.to(subject.device)
        return said(subject, lambda own: restored(sae, own, states_BTD.to(own.dtype), chosen_F, strength))

    all_F, none_F = torch.ones_like(expert_F), torch.zeros_like(expert_F)
    found = {
        "plain": said(subject), "original": said(original), "rebuilt": put(none_F, 1.0), "experts": put(expert_F, 1.0),
        "random": put(random_F, 1.0),
        "ceiling": said(original, lambda own: restored(sae, own, own, none_F.to(own.device), 1.0))}
    found["all"] = torch.stack([put(all_F, strength) for strength in STRENGTHS], 1)
    real_BT1 = batch.attention_BT[..., None].float()
    real_BT1[:, 0] = 0  # as where it was trained
    for name, value_BTD in (("explained", own_BTD.float()), ("explained_original", states_BTD.float())):
        left_BTD, whole_BTD = (v.square() * real_BT1 for v in (
            value_BTD - sae.decode(sae.encode(value_BTD)), value_BTD - sae.b_dec_D))
        found[name] = 1 - left_BTD.sum((1, 2)) / whole_BTD.sum((1, 2)).clamp_min(1e-12)
    return found
