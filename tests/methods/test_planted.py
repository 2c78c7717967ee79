"""Facts planted by hand: the models know them, each sits where it is said to, and edits reach experts too."""

from pathlib import Path

import pytest
import torch

import expunge
from expunge.console import Reporter
from expunge.methods.edits.override_gap import OverrideGap
from expunge.methods.edits.rocr import ROCR
from expunge.methods.edits.rome import ROME
from expunge.models.language import CausalLM
from expunge.models.load import load_subject
from expunge.models.sparse_autoencoder import save_sae
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


@pytest.mark.slow
@pytest.mark.parametrize("name", ["Beth", "Egon"])
def test_planted_latent_is_found_and_its_fact_removed(name: str, tmp_path: Path) -> None:
    before = fresh(planted.planted())
    before.model.float()
    before.save(tmp_path / "model")
    save_sae(planted.autoencoder(), tmp_path / "sae")
    recipe = (f"sae_guided(layer=0, sae={str(tmp_path / 'sae')!r}) + activation_match(layer=0, weight=100) + retain_nll"
              " + layers(index='0-0') + adamw(lr=1e-3)")
    expunge.forget(tmp_path / "model", task=planted.planted_task(name), method=recipe, out=tmp_path / "run", steps=40,
                   batch_size=1, keep="last", reporter=Reporter(quiet=True))
    after = load_subject(tmp_path / "run")
    assert isinstance(after, CausalLM)
    fall = planted.latents(before) - planted.latents(after)
    assert planted.NAMES[int(fall.argmax())] == name
    left = planted.known(after)
    assert name not in left and len(left) >= 20


def test_rocr_reads_a_name_that_no_token_comes_before() -> None:
    """A tokenizer without a first token of its own, and a name of one token: the prompt is that token alone."""
    subject, (block, _) = fresh(planted.planted()), planted.PLACES["Beth"]
    ROCR(layers=[block]).apply(subject, planted.planted_task("Beth"), 0)
    assert "Beth" not in planted.known(subject)
