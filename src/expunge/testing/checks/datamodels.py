"""Promises of an objective that matches what a datamodel predicts.

Legend: M trainings, G rows or entities, N outputs, D features.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from expunge.methods._lib.datamodels import (
    entities_of,
    fresh_weights,
    groups_of,
    inclusions,
    influence,
    margins_of,
    token_margins,
)
from expunge.methods.base import Objective
from expunge.methods.objectives.dmm import without
from expunge.methods.optimizers.adamw import AdamW
from expunge.methods.run_context import RunContext
from expunge.metrics.population import klom
from expunge.models.language import CausalLM
from expunge.records.settings import RunSettings

from ..support import fresh, loss, memoriser, once, small_task, taught, train
from .base import check, term


def _ridge(features_ND: Tensor, labels_N: Tensor, strength: float = 1.0) -> Tensor:
    eye_DD = torch.eye(features_ND.shape[1], dtype=torch.float64)
    return torch.linalg.solve(features_ND.T @ features_ND + strength * eye_DD, features_ND.T @ labels_N)


@check
def effects_are_exact_on_ridge(plugin: type[Objective]) -> None:
    """400 trainings on most of 120 rows foretell the outputs without 3 of them, which retraining moves further."""
    generator = torch.Generator().manual_seed(0)
    features_GD = torch.randn(120, 4, generator=generator, dtype=torch.float64)
    labels_G = features_GD @ torch.tensor([1.0, -2.0, 0.5, 3.0], dtype=torch.float64)
    labels_G = labels_G + 0.5 * torch.randn(120, generator=generator, dtype=torch.float64)
    included_MG = inclusions(120, 400, 0.95, 0)
    outputs_MN = torch.stack([features_GD @ _ridge(features_GD[kept], labels_G[kept]) for kept in included_MG.bool()])
    effects_GN = influence(included_MG, outputs_MN, 1e-3)
    for gone in ([0, 1, 2], [7, 20, 41], [5, 6, 59]):
        left = [i for i in range(120) if i not in gone]
        before, after = (features_GD @ _ridge(features_GD[rows], labels_G[rows]) for rows in (list(range(120)), left))
        foretold = without(before, effects_GN[gone])
        assert float((foretold - after).abs().max()) < 1e-2
        assert float((foretold - after).norm()) < 0.2 * float((before - after).norm())


@check
def inclusion_is_balanced(plugin: type[Objective]) -> None:
    """Also where a share would leave none, and with one entity alone."""
    for groups, models, share, each in ((7, 10, 0.5, 5), (1, 4, 0.5, 2), (3, 4, 0.01, 1), (3, 4, 0.99, 3)):
        found = inclusions(groups, models, share, seed=3)
        assert found.shape == (models, groups) and found.sum(0).tolist() == [each] * groups
    assert not torch.equal(inclusions(7, 10, 0.5, 3), inclusions(7, 10, 0.5, 4))
    assert [len({row.entity for row in rows}) for rows in entities_of(small_task().forget)] == [1, 1]
    many = [row.model_copy(update={"id": str(i), "entity": f"e{i // 2}"}) for i, row in
            enumerate(small_task().forget[:1] * 200)]
    for most in (1, 8, 150):
        parts = groups_of(many, most, seed=0)
        assert len(parts) == min(most, 100) and sorted(int(r.id) for part in parts for r in part) == list(range(200))
        assert sum(len({row.entity for row in part}) for part in parts) == 100, "an entity is in one group"
    included_MG = inclusions(8, 16, 0.5, 0)  # the default, whatever the number of entities
    outputs_MN = included_MG @ torch.full((8, 1), 12.5)
    assert float(influence(included_MG, outputs_MN, 0.1).sum()) == pytest.approx(100, rel=0.05)


@check
def margin_is_logit_contrast(plugin: type[Objective]) -> None:
    """In float64 from random logits; finite where a token is certain."""
    logits_NV = 3 * torch.randn(20, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for shift in (0.0, 1.0):
        found = token_margins((logits_NV + shift).log_softmax(-1)[:, 0])
        torch.testing.assert_close(found, logits_NV[:, 0] - logits_NV[:, 1:].logsumexp(-1))
    assert bool(token_margins(torch.tensor([0.0, -1e-9, -90.0])).isfinite().all())


@check
def oracle_matching_reaches_floor(plugin: type[Objective]) -> None:
    """Ridge models on noisy labels: descent on the squared difference to other retrained models, then KLoM of 50."""
    generator = torch.Generator().manual_seed(1)
    features_ND = torch.randn(30, 4, generator=generator, dtype=torch.float64)
    labels_N = features_ND.sum(1)
    labels_N[:6] += 8.0

    def models(rows: slice) -> Tensor:
        return torch.stack([_ridge(features_ND[rows], labels_N[rows] + torch.randn(
            len(labels_N[rows]), generator=generator, dtype=torch.float64)) for _ in range(50)])

    start_MD, aims_MD, others_MD = models(slice(None)), models(slice(6, None)), models(slice(6, None))
    weights_MD = start_MD.clone()
    for _ in range(400):
        off_MN = weights_MD @ features_ND.T - aims_MD @ features_ND.T
        weights_MD -= 0.1 * 2 * off_MN @ features_ND / len(features_ND)
    floor, found, before = (float(klom((w @ features_ND.T).numpy(), (others_MD @ features_ND.T).numpy())[:6].mean())
                            for w in (aims_MD, weights_MD, start_MD))
    assert abs(found - floor) < 0.05 and before > floor + 2, (floor, found, before)


def _retrained() -> Path:
    """A model that was trained on the retain and background rows alone, saved."""
    def make(folder: Path) -> None:
        def teach(subject: CausalLM) -> None:
            train("retain_nll", subject=subject, forget=(), retain=small_task().training_rows("retain"),
                  optimizer=AdamW(lr=5e-3, warmup=2.0), steps=160, batch_size=16)
        new = fresh_weights(memoriser(), 5)
        assert isinstance(new, CausalLM)
        taught("retrained weights", new, teach).save(folder)
    return once("retrained", make)


@check(trains=True)
def matches_oracle(plugin: type[Objective], steps: int, lr: float) -> None:
    """The margins end near those of the oracle, and the forget loss near its loss; retain rows stay known."""
    oracle, forget = str(_retrained()), small_task().forget
    run = train(term(plugin, {"oracle": oracle}), steps=steps, lr=lr)
    aims = torch.cat(plugin(oracle=oracle).oracle(fresh(), list(forget)))  # type: ignore[attr-defined]
    off = [float((torch.cat(margins_of(s, forget)) - aims).abs().mean()) for s in (memoriser(), run.subject)]
    assert off[1] < 0.5 * off[0], off
    assert loss(run.subject, forget) > 0.4 * float(-torch.nn.functional.logsigmoid(aims).mean())
    assert loss(run.subject, small_task().retain) < 0.5


@check(trains=True)
def predicts_retraining(plugin: type[Objective], models: int, epochs: float) -> None:
    """From a model that never met the forget rows: predicted margins on forget rows are nearer to its own."""
    base, forget = str(_retrained()), list(small_task().forget)
    made = plugin(models=models, epochs=epochs, base=base, lr=3e-3, kept=4)
    run = RunContext(settings=RunSettings(batch_size=16))
    found = made.prepare(fresh(), small_task(), run)["targets"]
    aims = torch.cat(plugin(oracle=base).oracle(fresh(), forget))  # type: ignore[attr-defined]
    foretold = torch.cat([torch.tensor(found[row.id]) for row in forget])
    off = [float((m - aims).abs().mean()) for m in (torch.cat(margins_of(memoriser(), forget)), foretold)]
    assert off[1] < 0.6 * off[0], off
