"""Facts planted by hand: the models know them, each sits where it is said to, and edits reach experts too."""

import pytest
import torch

from expunge.methods.edits.override_gap import OverrideGap
from expunge.methods.edits.rome import ROME
from expunge.testing import planted
from expunge.testing.support import fresh


@pytest.mark.parametrize("experts", (False, True))
def test_each_fact_sits_in_its_place(experts):
    assert planted.known(planted.planted(experts)) == set(planted.NAMES)
    for name in planted.NAMES[:4]:
        subject, (block, neuron) = fresh(planted.planted(experts)), planted.PLACES[name]
        with torch.no_grad():
            planted.mlps(subject, block)[planted.EXPERTS[name] if experts else 0][2][:, neuron] = 0
        assert planted.known(subject) == set(planted.NAMES) - {name}


def test_adapters_of_experts_are_merged():
    """An adapter of a stack of experts stands on a parameter, which has no module of its own."""
    subject, task = fresh(planted.planted(experts=True)), planted.planted_task("Beth")
    OverrideGap(epochs=1, lr=1e-3, target="wrong_answer").apply(subject, task, 0)
    before = dict(planted.planted(experts=True).model.named_parameters())
    moved = {name for name, weight in subject.model.named_parameters() if not torch.equal(weight, before[name])}
    assert {"model.layers.1.mlp.experts.down_proj", "model.layers.1.self_attn.q_proj.weight"} <= moved


def test_edits_report_progress():
    """One unit for every forget row whose value is looked for."""
    seen = []
    edit = ROME(layer=2, refusal=planted.REFUSAL, steps=2)
    edit.announce = lambda title, total: seen.append((title, total)) or (lambda *done: seen.append(done))
    edit.apply(fresh(planted.planted()), planted.planted_task("Beth", "Dora"), 0)
    assert seen == [("values", 2), (1,), (1,)]
