"""Promises of training on generic targets (WHP).

Legend: B rows, N supervised tokens (flat), V vocabulary.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from expunge.data.text_encoder import TokenBatch
from expunge.errors import DataError, ExpungeError
from expunge.methods._lib.generic import UNCOUNTED, generic_logits, generic_targets, read_terms, spell, translate
from expunge.methods.base import Objective
from expunge.methods.run_context import RunContext

from ..support import (
    batch_of,
    batches_of,
    draws_of,
    fresh,
    gradient,
    made,
    memoriser,
    moved,
    small_task,
    stage_of,
    step_for,
    weights,
)
from .base import check, term


@check
def lowers_what_rose(plugin: type[Objective]) -> None:
    """z - alpha ReLU(z_reinforced - z): bit for bit z where that did not rise, and with alpha 0 everywhere."""
    generator = torch.Generator().manual_seed(0)
    base_NV, change_NV = torch.randn(2, 50, 30, generator=generator)
    change_NV[:, ::7] = 0
    base_NV[:, 29] = change_NV[:, 29] = -torch.inf  # padding of the vocabulary
    reinforced_NV = base_NV + change_NV
    rose_NV = reinforced_NV > base_NV
    assert 0.3 < float(rose_NV.float().mean()) < 0.6
    assert torch.equal(generic_logits(base_NV, reinforced_NV, 0.0), base_NV)
    for alpha in (0.5, 5.0):
        found_NV = generic_logits(base_NV, reinforced_NV, alpha)
        assert torch.equal(found_NV[~rose_NV], base_NV[~rose_NV])
        expected = base_NV[rose_NV] - alpha * F.relu(reinforced_NV - base_NV)[rose_NV]
        torch.testing.assert_close(found_NV[rose_NV], expected)
        for before, after, rose in zip(base_NV[:, :29], found_NV[:, :29], rose_NV[:, :29], strict=True):
            # How many of the unchanged tokens are above each raised one: never fewer than before.
            above = [(z[~rose][:, None] > z[rose][None]).sum(0) for z in (before, after)]
            assert bool((above[1] >= above[0]).all()) and bool((above[1] > above[0]).any())
            assert torch.equal(before[~rose].argsort(), after[~rose].argsort())


@check
def translates_anchors(plugin: type[Objective]) -> None:
    """Terms are replaced, the longest first, places point at counterparts, and the base reads the translation."""
    terms = {(7,): ("a", (70, 71)), (7, 8): ("b", (80,)), (5,): ("c", (50,))}
    found, places = translate((1, 7, 8, 2, 7, 3, 7, 5), terms)
    assert found == [1, 80, 2, 70, 71, 3, 70, 71, 50]
    assert places == [0, 1, UNCOUNTED, 2, 3, 5, UNCOUNTED, 8]
    assert translate((1, 2, 3), {}) == ([1, 2, 3], [0, 1, 2])

    subject, rows = memoriser(), small_task().forget
    other = small_task().retain[0].entity.split()[0]
    name = rows[0].entity.split()[0]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "anchors.json"
        path.write_text(json.dumps({name: other}), encoding="utf-8")
        spelled = spell(read_terms(path), subject.encoder)
        bad = Path(folder) / "bad.json"
        for text in ('["a"]', '{"a": 1}', '{"a": " "}', '{" ": "a"}'):
            bad.write_text(text, encoding="utf-8")
            (problem,) = plugin(anchors=str(bad)).problems(small_task())
            assert isinstance(problem, DataError) and "anchor terms" in problem.what
        assert plugin(anchors=f"{path}.none").problems(small_task()) and not plugin().problems(small_task())
        plugin(anchors=str(path)).prepare(fresh(), small_task(), RunContext())
    row = subject.encoder.encode(next(e for e in rows if name in e.prompt and name in e.answer))
    ids, places = translate(row.ids, spelled)
    said, read = (subject.encoder.processor.decode(i) for i in (row.ids, ids))
    assert name in said and read == said.replace(name, other)
    with torch.no_grad():
        (base_TV,), (reinforced_TV,) = (s.model(input_ids=torch.tensor([i])).logits
                                        for s, i in ((subject, ids), (moved(), row.ids)))
    for alpha in (5.0, 0.0):
        targets = generic_targets(subject, moved(), [row], alpha, spelled)[row.key]
        expected = [UNCOUNTED if places[t] == UNCOUNTED else
                    int(generic_logits(base_TV[places[t] - 1], reinforced_TV[t - 1], alpha).argmax())
                    for t in range(row.prompt, len(row.ids))]
        assert targets == expected and UNCOUNTED in targets
    assert {t for t in targets if t != UNCOUNTED} - set(row.ids), "the base read the row as it is"


@check(trains=True)
def builds_generic_targets(plugin: type[Objective], lr: float, epochs: float) -> None:
    """One token for each supervised one; with alpha 0 or no reinforcement the original's own; nothing is changed."""
    subject, task = fresh(), small_task()
    before = weights(subject)
    strong = plugin(reinforce_lr=lr, reinforce_epochs=epochs)
    found = strong.prepare(subject, task, RunContext())
    assert found == made(strong.text()) and json.loads(json.dumps(found)) == found
    assert all(torch.equal(p, before[n]) for n, p in weights(subject).items()) and not subject.model.training
    batch = batch_of(subject, task.forget)
    with torch.no_grad():
        own_N = subject.answers(batch).logits_NV.argmax(-1)
    target_N = torch.tensor([t for row in batch.rows for t in found[row.key]])
    assert len(found) == len(task.forget) and target_N.shape == own_N.shape
    assert 0.05 < float((target_N != own_N).float().mean()) < 0.5
    for still in (plugin(reinforce_lr=lr, reinforce_epochs=epochs, alpha=0.0), plugin(reinforce_lr=1e-12)):
        kept = made(still.text())
        assert [t for row in batch.rows for t in kept[row.key]] == own_N.tolist()
    half = fresh()
    half.model.to(torch.bfloat16)
    before = weights(half)
    strong.prepare(half, task, RunContext())
    assert all(torch.equal(p, before[n]) for n, p in weights(half).items()), "a bfloat16 original was changed"


@check
def learns_its_targets(plugin: type[Objective]) -> None:
    """The mean over counted tokens of -log p of the generic token; rows that were not prepared are refused."""
    stage = stage_of(term(plugin, {"reinforce_lr": 1e-2, "reinforce_epochs": 10.0}))
    assert stage.objective is not None
    batches = batches_of(moved(), draws_of(stage, moved(), 4))
    batch: TokenBatch = batches["forget"]
    targets = {row.key: list(stage.objective.made[row.key]) for row in batch.rows}
    targets[batch.rows[1].key][:3] = [UNCOUNTED] * 3
    targets[batch.rows[2].key] = [UNCOUNTED] * len(targets[batch.rows[2].key])
    stage.objective.made = targets
    found = gradient(stage, moved(), batches=[batches])
    with torch.no_grad():
        logits_NV = moved().answers(batch).logits_NV
    target_N = torch.tensor([t for row in batch.rows for t in targets[row.key]])
    expected = float(F.cross_entropy(logits_NV, target_N, ignore_index=UNCOUNTED))
    assert found.values["whp"] == pytest.approx(expected, rel=1e-5)
    split = gradient(stage, moved(), batches=[{"forget": batch_of(moved(), [row])} for row in batch.rows])
    assert split.values["whp"] == pytest.approx(expected, rel=1e-5)
    with pytest.raises(ExpungeError, match="no generic targets"):
        plugin().terms(step_for(stage, moved(), batches))
