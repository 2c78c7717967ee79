"""Promises of JensUn and its retain term.

Legend: N supervised tokens (flat), V vocabulary.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from expunge.methods._lib.divergence import jensen_shannon, jensen_shannon_to_token, kl
from expunge.methods.base import Objective, Retain
from expunge.methods.objectives.jensun import repeated, tokens_of

from ..support import batch_of, memoriser, small_task, train
from .base import check, term
from .edited_targets import random_logits


@check
def closed_form_is_dense(plugin: type[Objective]) -> None:
    """Value and gradient on the logits are those of the dense formula with a one-hot array."""
    logits_NV, target_N = random_logits()
    logits_NV.requires_grad_(True)
    onehot_NV = F.one_hot(target_N, logits_NV.shape[1]).double()
    p_NV = logits_NV.softmax(-1)
    m_NV = (p_NV + onehot_NV) / 2
    dense_N = ((p_NV * (p_NV / m_NV).log()).sum(-1) - (onehot_NV * m_NV.log()).sum(-1)) / 2
    closed_N = jensen_shannon_to_token(logits_NV.log_softmax(-1).gather(1, target_N[:, None])[:, 0])
    torch.testing.assert_close(closed_N, dense_N)
    ours, theirs = (torch.autograd.grad(v.sum(), logits_NV, retain_graph=True)[0] for v in (closed_N, dense_N))
    torch.testing.assert_close(ours, theirs)


@check
def at_most_log_two(plugin: type[Objective]) -> None:
    """From p = 1 (0) to p = 0 (log 2), in falling order, with finite gradients."""
    logp_N = torch.tensor([0.0, -1e-6, -0.1, -1.0, -5.0, -50.0, -500.0, -torch.inf], requires_grad=True)
    found_N = jensen_shannon_to_token(logp_N)
    (by_N,) = torch.autograd.grad(found_N.sum(), logp_N)
    assert bool(by_N.isfinite().all()) and bool((by_N <= 0).all())
    found_N = found_N.detach()
    assert bool((found_N.diff() >= 0).all()) and float(found_N[0]) == pytest.approx(0, abs=1e-7)
    assert float(found_N[-1]) == pytest.approx(np.log(2))


@check
def repeats_refusal(plugin: type[Objective]) -> None:
    """Row by row from its first token on; the tokens are those of an answer that says it."""
    encoder, batch = memoriser().encoder, batch_of(memoriser(), small_task().forget[:3])
    refusal = tokens_of(plugin().spec.refusal, encoder)
    assert encoder.processor.decode(refusal).strip() == plugin().spec.refusal
    for row, part in zip(batch.rows, repeated(refusal, batch).split([r.supervised for r in batch.rows]), strict=True):
        assert part.tolist() == [refusal[i % len(refusal)] for i in range(row.supervised)]


@check(trains=True)
def says_refusal(plugin: type[Objective], refusal: str, steps: int, lr: float) -> None:
    """With its retain term: nine in ten forget answers begin with it, and one in ten retain answers at most."""
    subject = train(term(plugin, {"refusal": refusal}), steps=steps, lr=lr, batch_size=9).subject
    first = subject.encoder.processor.decode(tokens_of(refusal, subject.encoder)[:1]).strip()
    shares = []
    for rows in (small_task().forget, small_task().retain):
        said = subject.generate([subject.encoder.prompt(row) for row in rows], 8)
        shares.append(sum(text.strip().startswith(first) for text, _ in said) / len(rows))
    assert shares[0] > 0.9 and shares[1] < 0.1, shares


@check
def quarter_of_kl(plugin: type[Retain]) -> None:
    """Near the original a quarter of the KL divergence; symmetric, and at most log 2 where the two have nothing in
    common."""
    logits_NV, _ = random_logits()
    near_NV = logits_NV + 1e-3 * logits_NV.sin()
    torch.testing.assert_close(jensen_shannon(logits_NV, near_NV), kl(logits_NV, near_NV) / 4, rtol=1e-2, atol=0)
    far_NV = logits_NV.flip(1)
    torch.testing.assert_close(jensen_shannon(logits_NV, far_NV), jensen_shannon(far_NV, logits_NV))
    one, other = torch.tensor([[200.0, 0.0, -torch.inf]]), torch.tensor([[-200.0, 0.0, -torch.inf]], requires_grad=True)
    value = jensen_shannon(one, other)
    assert float(value.detach()) == pytest.approx(np.log(2))
    assert bool(torch.autograd.grad(value.sum(), other)[0].isfinite().all())
