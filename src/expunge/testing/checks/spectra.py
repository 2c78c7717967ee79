"""Promises of an ascent step whose spectrum is collapsed. Legend: O outputs, I inputs."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from expunge.methods._lib.importance import summed_gradient
from expunge.methods._lib.selective import mean_divergence
from expunge.methods._lib.spectrum import collapsed
from expunge.methods.base import Edit
from expunge.models.reference import CachedStates

from ..support import cosine, memoriser, small_task
from .base import check, term
from .edits import change_of, edited


@check
def spectrum_in_closed_form(plugin: type[Edit]) -> None:
    """Singular vectors stay; wide, tall and stacked matrices, and one of low rank."""
    generator = torch.Generator().manual_seed(0)
    for shape in ((9, 14), (14, 9)):
        matrix = torch.randn(shape, generator=generator, dtype=torch.float64)
        left, scale, right = torch.linalg.svd(matrix, full_matrices=False)
        for count in (0, 1, 4, 9):
            kept = scale[max(count - 1, 0)]
            top = torch.arange(9) < count
            for sides, expected in (("input", torch.where(top, kept, scale)), ("output", torch.where(top, kept, scale)),
                                    ("both", torch.where(top, kept ** 2 / scale, scale))):
                found = collapsed(matrix, count, sides)  # type: ignore[arg-type]
                torch.testing.assert_close(found, left @ torch.diag(expected) @ right, atol=1e-9, rtol=0)
                stack = torch.stack([matrix, 2 * matrix])
                torch.testing.assert_close(collapsed(stack, count, sides)[1], 2 * found,  # type: ignore[arg-type]
                                           atol=1e-9, rtol=0)
    thin = torch.outer(torch.arange(1.0, 6), torch.ones(7)).double()
    assert bool(collapsed(thin, 3).isfinite().all()) and not collapsed(torch.zeros(4, 4), 2).any()


@check
def is_plain_ascent(plugin: type[Edit]) -> None:
    """The change of the MLPs is a positive multiple of the gradient of the forget rows' loss."""
    change = change_of(edited(term(plugin, {"share": 0.0, "adversary_lr": 0.0}))[0])
    moved = [name for name, value in change.items() if value.any()]
    rows = [memoriser().encoder.encode(e) for e in small_task().forget]
    slope = summed_gradient(memoriser(), rows, names=moved)
    assert moved and cosine([change[n] for n in moved], [slope[n] for n in moved]) > 0.9999
    other = change_of(edited(term(plugin, {"adversary_lr": 0.0}))[0])
    assert cosine([other[n] for n in moved], [slope[n] for n in moved]) < 0.9, "nothing was collapsed"


@check
def stays_within_budget(plugin: type[Edit], budgets: Sequence[float]) -> None:
    """Read again with a reference of its own; the figures say the same."""
    rows = [memoriser().encoder.encode(e) for e in small_task().background]
    original = CachedStates(memoriser(), rows)
    for budget in budgets:
        subject, figures = edited(term(plugin, {"budget": budget}))
        found = mean_divergence(subject, original, rows)
        assert 0.9 * budget < found <= budget * 1.001 and figures["divergence"] == pytest.approx(found, rel=1e-3)
