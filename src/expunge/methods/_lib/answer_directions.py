"""How strongly directions of the residual stream point to the tokens of some answers, by the output head.

Legend: V vocabulary, D hidden size, J directions, C tokens of the answers.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from expunge.models.language import CausalLM
from expunge.records.task import Example


def answer_tokens(subject: CausalLM, rows: Iterable[Example]) -> list[int]:
    """The tokens of the rows' bare facts, or of their answers, each once; special tokens left out."""
    found: dict[int, None] = {}
    for row in rows:
        made = subject.encoder.encode(row, answer=row.short_answer or row.answer)
        found |= dict.fromkeys(made.ids[made.prompt: made.prompt + made.answer])
    return [token for token in found if token not in subject.encoder.special]


@torch.no_grad()
def pointing(subject: CausalLM, directions_DJ: Tensor, tokens: list[int]) -> Tensor:
    """For each direction the largest logit of these tokens, in standard deviations over the vocabulary; shape J.

    Mean and deviation come from the head's first two moments, so no vector of the vocabulary's size is made for each.
    """
    head_VD = subject.head.weight
    assert isinstance(head_VD, Tensor)
    head_VD = head_VD.detach()
    mean_D = head_VD.mean(0)
    spread_DD = (head_VD.T @ head_VD) / len(head_VD) - torch.outer(mean_D, mean_D)
    deviation_J = ((spread_DD @ directions_DJ) * directions_DJ).sum(0).clamp_min(1e-30).sqrt()
    logits_CJ = (head_VD[tokens] - mean_D) @ directions_DJ
    return logits_CJ.amax(0) / deviation_J
