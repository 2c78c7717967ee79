"""Promises of edits that look for a value: their equations, and what becomes of facts planted in a known place.

Legend: K inputs of an MLP's output projection, D hidden size, M rows.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import Tensor

from expunge.methods._lib.fact_edit import FactEdit, Lookup, generic_rows
from expunge.methods._lib.least_squares import covariances, null_projector, ridged
from expunge.methods._lib.output_projection import mlp_out
from expunge.methods._lib.value_descent import ValueTerm
from expunge.models.language import CausalLM
from expunge.models.sites import Site

from .. import planted
from ..support import batch_of, fresh, loss, memoriser, small_task, stage_of
from .base import check

NAME, OTHER = "Beth", "Dora"
BLOCK = planted.PLACES[NAME][0]
"""That of `OTHER`, too."""
SHORT: dict[str, Any] = {"contexts": 0, "steps": 6}
"""A descent of a moment: equations hold for any value."""


def matrix(subject: CausalLM) -> Tensor:
    """The output projection of the block's MLP, D K."""
    found = mlp_out(subject, BLOCK)[1].weight
    assert isinstance(found, Tensor)
    return found.detach().clone()


def written(edit: FactEdit) -> tuple[CausalLM, Tensor]:
    """The planted model after the edit of two names, and the change of the matrix of their block, D K."""
    subject = fresh(planted.planted())
    edit.apply(subject, planted.planted_task(NAME, OTHER), 0)
    before, after = matrix(planted.planted()), matrix(subject)
    changed = [n for (n, a), b in zip(subject.model.named_parameters(), planted.planted().model.parameters(),
                                      strict=True) if not torch.equal(a, b)]
    assert changed == [f"model.layers.{BLOCK}.mlp.down_proj.weight"]
    return subject, after - before


def asked(edit: FactEdit) -> tuple[CausalLM, list[Lookup], Tensor]:
    """The planted model, its facts as the edit sees them, and the covariance of their block's keys, as it is cached."""
    subject, task = planted.planted(), planted.planted_task(NAME, OTHER)
    covariance_KK = covariances(subject, [BLOCK], generic_rows(subject, task))[BLOCK].float().double()
    return subject, edit.facts(subject, task), covariance_KK


@check
def meets_its_constraint(plugin: type[FactEdit]) -> None:
    """Rank 1 for one fact, and the matrix gives the value that was found; to 1e-6 in float64."""
    edit, subject = plugin(layer=BLOCK, **SHORT), fresh(planted.planted())
    task = planted.planted_task(NAME)
    (found,) = edit.facts(planted.planted(), task)
    wanted_D = found.change(planted.planted(), Site(BLOCK, "mlp"), found.mlp_value(planted.planted(), BLOCK))
    edit.apply(subject, task, 0)
    change_DK = matrix(subject) - matrix(planted.planted())
    assert int(torch.linalg.matrix_rank(change_DK, rtol=1e-9)) == 1
    got_D = change_DK @ found.each_key(planted.planted(), BLOCK)[0]
    assert float((got_D - wanted_D).norm()) < 1e-6 * float(wanted_D.norm())


def residuals(subject: CausalLM, facts: list[Lookup]) -> tuple[Tensor, Tensor]:
    """Keys K M and residuals D M of the only layer that is edited."""
    starts = [fact.value(subject, BLOCK) for fact in facts]
    found = [fact.change(subject, Site(BLOCK), start) for fact, start in zip(facts, starts, strict=True)]
    return torch.stack([fact.keys(subject, BLOCK) for fact in facts], 1), torch.stack(found, 1)


@check
def solves_its_equations(plugin: type[FactEdit]) -> None:
    """dW (lambda C + K K^T) = R K^T to 1e-6 in float64, and with a small lambda dW K = R."""
    edit = plugin(layers=[BLOCK], **SHORT)
    subject, facts, covariance_KK = asked(edit)
    keys_KM, residual_DM = residuals(subject, facts)
    _, change_DK = written(edit)
    left_KK = edit.spec.penalty * len(keys_KM) * ridged(covariance_KK) + keys_KM @ keys_KM.T
    right_DK = residual_DM @ keys_KM.T
    assert float((change_DK @ left_KK - right_DK).norm()) < 1e-6 * float(right_DK.norm())
    _, exact_DK = written(plugin(layers=[BLOCK], penalty=1e-12, **SHORT))
    assert float((exact_DK @ keys_KM - residual_DM).norm()) < 1e-6 * float(residual_DM.norm())


@check
def leaves_generic_directions(plugin: type[FactEdit]) -> None:
    """dW (I - P) = 0 to 1e-6, P the free directions; keys within the others give what they gave."""
    edit = plugin(layers=[BLOCK], **SHORT)
    _, _, covariance_KK = asked(edit)
    projection_KK = null_projector(covariance_KK, edit.spec.threshold, relative=True)
    free = int(projection_KK.trace().round())
    assert 0 < free < len(projection_KK)
    _, change_DK = written(edit)
    outside_DK = change_DK - change_DK @ projection_KK
    assert float(outside_DK.norm()) < 1e-6 * float(change_DK.norm())


@check
def answers_as_target(plugin: type[FactEdit], options: dict[str, Any]) -> None:
    """A planted fact becomes a refusal, or a wrong answer; the 21 others are answered as before."""
    for target, word in (("refusal", planted.REFUSAL), ("wrong_answer", planted.fact(NAME).wrong_answers[0])):
        subject = fresh(planted.planted())
        plugin(target=target, refusal=planted.REFUSAL, **options).apply(subject, planted.planted_task(NAME), 0)
        assert planted.said(subject, [NAME])[NAME] == word
        assert planted.known(subject) == set(planted.NAMES) - {NAME}


@check
def drift_by_hand(plugin: type[ValueTerm]) -> None:
    """Beside loops over rows, blocks and heads: all heads, and those that turn to the name; 0 without a change."""
    drift = sys.modules[plugin.__module__].drift
    source = torch.Generator().manual_seed(0)
    before, now = ([torch.rand(2, 3, 5, 5, generator=source, dtype=torch.float64).softmax(-1) for _ in range(2)]
                   for _ in range(2))
    from_B, to_B = torch.tensor([4, 3]), torch.tensor([1, 2])
    for place_B in (None, to_B):
        wanted = torch.zeros(2, dtype=torch.float64)
        for p, q in zip(before, now, strict=True):
            for b in range(2):
                for h in range(3):
                    at, to = int(from_B[b]), int(to_B[b])
                    if place_B is None or q[b, h, at, to] > max(p[b, k, at, to] for k in range(3)):
                        one, other = p[b, h, at] + 1e-8, q[b, h, at] + 1e-8
                        wanted[b] += (one * (one / other).log()).sum()
        torch.testing.assert_close(drift(before, now, from_B, place_B), wanted)
        assert not drift(before, before, from_B, place_B).any()


@check(trains=True)
def restricts_drift(plugin: type[ValueTerm]) -> None:
    """After rome with it the end of the prompt looks where it looked; without it, less so. Both say the target."""
    drift, row = sys.modules[plugin.__module__].drift, small_task().forget[0]
    task = small_task().model_copy(update={"forget": (row,)})
    rome = "rome(target=wrong_answer, steps=60, decay=0.0001, contexts=0, rate=0.2)"
    found, losses = [], []
    for recipe in (rome, f"{rome} + {plugin.card.name}(weight=3000, hinge=False)"):
        edit, subject = stage_of(recipe).edit, fresh()
        assert isinstance(edit, FactEdit) and len(edit.beside) == recipe.count(plugin.card.name)
        edit.apply(subject, task, 0)
        batch = batch_of(subject, [row])
        maps = [s.attention(batch) for s in (memoriser(), subject)]
        found.append(float(drift(*maps, torch.tensor([batch.rows[0].prompt - 1])).sum()))
        losses.append(loss(subject, [row.model_copy(update={"answer": row.wrong_answers[0]})]))
    assert found[1] < 0.8 * found[0], (found, losses)
    assert max(losses) < 1.0, (found, losses)
