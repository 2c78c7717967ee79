"""Promises of a combiner that rectifies the forget gradient by a running mean of retain gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from expunge.methods.base import Combine
from expunge.training.gradients import inner

from ..support import cosine, distance, flat, trained
from .base import check, term
from .combiners import apart, with_dot


@check
def never_against_memory(plugin: type[Combine]) -> None:
    """Against a conflicting retain gradient the product becomes 0; without conflict nothing is changed, bit for bit."""
    forget, retain = with_dot(-1.0)
    found = list(plugin()(forget, retain))
    assert abs(cosine(found, retain)) < 1e-5 and inner(found, forget) > 0
    for given in (with_dot(1.0)[1], [0 * r for r in retain]):
        assert torch.equal(flat(plugin()(forget, given)), flat(forget))
    both = plugin(retain=0.7)(forget, retain)
    assert distance(both, [f + 0.7 * r for f, r in zip(found, retain, strict=True)]) < 1e-6


@check
def memory_as_published(plugin: type[Combine]) -> None:
    """Three steps beside numpy-like float64; gamma weighs the new gradient; the mean begins at 0; state goes on."""
    made, mean = plugin(gamma=0.6), torch.zeros(())
    conflicts = 0
    for sign, scale in ((-1.0, 1.0), (1.0, 0.2), (-1.0, 2.0)):
        forget, retain = with_dot(sign)
        mean = 0.6 * scale * flat(retain) + 0.4 * mean
        share = torch.clamp(flat(forget) @ mean, max=0) / (mean @ mean)
        conflicts += bool(share < 0)
        found = flat(made(forget, [scale * r for r in retain]))
        torch.testing.assert_close(found, flat(forget) - share * mean, atol=1e-6, rtol=1e-3)
    assert conflicts, "nothing was projected"
    again = plugin(gamma=0.6)
    again.restore(made.state())
    ends = [flat(one(list(apart().forget), list(apart().retain))) for one in (made, again)]
    assert torch.equal(ends[0], ends[1])


@check
def gamma_one_is_pcgrad(plugin: type[Combine]) -> None:
    """As pcgrad(project=forget) without its retain part; with a floor the share of the floor's cosine is removed."""
    from expunge.methods.combine.pcgrad import deconflicted

    forget, retain = with_dot(-1.0)
    retain = [r - 2 * f for f, r in zip(forget, retain, strict=True)]
    made = plugin(gamma=1.0)
    made(forget, forget)
    assert distance(list(made(forget, retain)), list(deconflicted(forget, retain))) < 1e-6
    assert cosine(forget, retain) < -0.6
    found = list(plugin(gamma=1.0, floor=-0.5)(forget, retain))
    lengths = (inner(forget, forget) * inner(retain, retain)) ** 0.5
    assert inner(found, retain) == pytest.approx(inner(forget, retain) + 0.5 * lengths, rel=1e-4)


@check(trains=True)
def protects_better_than_alone(plugin: type[Combine], steps: int = 20,
                               options: dict[str, Any] | None = None) -> None:
    """Forget answers are lost, and retain answers lose less than under npo alone."""
    mine, alone = (trained(r, steps=steps, lr=1e-3, watch=10).readings
                   for r in (f"npo + {term(plugin, options)}", "npo"))
    assert mine[-1][0] > 2 and mine[-1][1] < 0.6 * alone[-1][1], (mine, alone)
