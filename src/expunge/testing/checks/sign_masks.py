"""Promises of a combiner that masks by signs."""

from __future__ import annotations

import torch

from expunge.methods.base import Combine

from ..support import distance, flat
from .base import check
from .combiners import apart


@check
def signs_agree(plugin: type[Combine]) -> None:
    """Over three steps, beside a loop in float64: sign, norm before the mask, running mean; state goes on."""
    made, mean = plugin(retain=0.0, decay=0.9), torch.zeros(())
    for scale in (1.0, -0.2, 3.0):
        forget, retain = list(apart().forget), [scale * r for r in apart().retain]
        mean = 0.9 * mean + 0.1 * flat(retain)
        found, whole = flat(made(forget, retain)), flat(forget)
        agreeing = whole.sign() == mean.sign()
        torch.testing.assert_close(found, torch.where(agreeing | (mean == 0), whole / whole.norm(), 0.0), atol=1e-6,
                                   rtol=1e-3)
        assert 0.1 < float(agreeing.double().mean()) < 0.9, "the check would show nothing"
        assert float((found * mean).min()) >= 0, "a coordinate raises the retain loss"
    again = plugin(retain=0.0, decay=0.9)
    again.restore(made.state())
    both = [flat(one(list(apart().forget), list(apart().retain))) for one in (made, again)]
    assert torch.equal(both[0], both[1])


@check
def alternates_without_mask(plugin: type[Combine]) -> None:
    """g_f + retain * g_r where nothing is masked, normalised or remembered."""
    forget, retain = list(apart().forget), list(apart().retain)
    found = plugin(mask=False, normalise=False, decay=0.0, retain=0.7)(forget, retain)
    assert distance(list(found), [f + 0.7 * r for f, r in zip(forget, retain, strict=True)]) < 1e-6
