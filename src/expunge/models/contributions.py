"""What a hidden layer contributes to an answer: input times gradient, and which rows contribute alike.

Legend: B rows, N supervised units (flat), T positions, D hidden size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from expunge.models.sites import Site, write
from expunge.models.subject import AnySubject


def contributions(subject: AnySubject, rows: Sequence[Any], block: int = -1) -> Tensor:
    """R(x) = h * d f_c(x) / dh at the output of a block, of length 1; shape B D, on the CPU.

    f_c is the logit of the row's answer, summed over its tokens, and R is summed over the positions of text or of an
    image. The model is not changed; its weights need no gradient.
    """
    found = torch.zeros(len(rows), 0)
    for part in subject.encoder.batches(rows):
        kept: list[Tensor] = []

        def follow(given: Any, value: Tensor, kept: list[Tensor] = kept) -> Tensor:
            kept[:] = [value.detach().requires_grad_()]
            return kept[0]

        batch = subject.collate([rows[i] for i in part])
        with torch.enable_grad(), write(subject, Site(block), follow):
            answers = subject.answers(batch)
            value_N = answers.logits_NV.gather(1, batch.target_N[:, None])[:, 0]
            (slope,) = torch.autograd.grad(value_N.float().sum(), kept)
        both = (kept[0].detach() * slope).float()
        pooled_BD = both.flatten(2).sum(-1) if both.dim() == 4 else both.flatten(1, -2).sum(1)
        if not found.shape[1]:
            found = torch.zeros(len(rows), pooled_BD.shape[1])
        found[part] = pooled_BD.cpu()
    return F.normalize(found, dim=1)
