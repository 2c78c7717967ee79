"""What holds for every edit: its figures, what it leaves behind, and that it can be repeated."""

from __future__ import annotations

import json
from typing import Any

import torch

from expunge.data.world import authors_task
from expunge.methods.base import Edit
from expunge.models.language import CausalLM
from expunge.models.load import load_subject
from expunge.models.tiny import build_subject
from expunge.plugin import Plugin
from expunge.records.task import Task

from ..support import batch_of, fresh, hooks, memoriser, new_folder, small_task, stage_of, weights
from .base import invariant, term
from .cards import required


def apply(plugin: type[Plugin] | str, subject: CausalLM, seed: int = 0, task: Task | None = None) -> dict[str, Any]:
    """Run the edit (a class with its default options, or a recipe) on the subject; its figures."""
    edit = stage_of(plugin if isinstance(plugin, str) else term(plugin, required(plugin))).edit
    assert isinstance(edit, Edit)
    return edit.apply(subject, task or small_task(), seed)


@invariant("edit", "sequential")
def edit_changes_weights_and_leaves_no_trace(plugin: type[Edit]) -> None:
    """Figures are JSON and weights change; no hooks, no gradients, mode, ties and task as they were."""
    subject, task = fresh(), small_task()
    asked = {n: p.requires_grad for n, p in subject.model.named_parameters()}
    shared = subject.model.get_input_embeddings().weight.data_ptr()
    fingerprint = task.fingerprints()
    figures = apply(plugin, subject)
    assert figures["edit"] == plugin.card.name
    assert not {"kept", "start", "rule"} & figures.keys(), "these words tell which checkpoint of a loop was kept"
    assert json.loads(json.dumps(figures, allow_nan=False)) == figures
    before = weights(memoriser())
    assert any(not torch.equal(p, before[n]) for n, p in weights(subject).items()), "no weight has changed"
    assert all(bool(p.isfinite().all()) for p in subject.model.parameters())
    assert hooks(subject) == [] and not subject.model.training
    assert all(p.grad is None and p.requires_grad == asked[n] for n, p in subject.model.named_parameters())
    assert subject.model.get_output_embeddings().weight.data_ptr() == shared
    assert task.fingerprints() == fingerprint


@invariant("edit", "sequential")
def edit_repeats(plugin: type[Edit]) -> None:
    """The same seed gives the same weights, whatever the global random state was before."""
    ends = []
    for noise in (1, 2):
        torch.manual_seed(noise)
        subject = fresh()
        apply(plugin, subject, seed=3)
        ends.append(weights(subject))
    assert all(torch.equal(ends[0][n], ends[1][n]) for n in ends[0])


@invariant("edit", "sequential")
def edited_model_loads(plugin: type[Edit]) -> None:
    """Saved and loaded it gives the same logits."""
    subject = fresh()
    apply(plugin, subject)
    folder = new_folder()
    subject.save(folder)
    again, batch = load_subject(folder), batch_of(subject, small_task().forget[:3])
    with torch.no_grad():
        assert torch.equal(again.answers(batch).logits_NV, subject.answers(batch).logits_NV)


@invariant("edit", "sequential")
def edits_other_families(plugin: type[Edit]) -> None:
    """GPT-2 keeps its weights the other way round and ties its embeddings; running text has no question."""
    task = authors_task(forget=1, retain=2, holdout=1, neighbours=1)
    config = {"model_type": "gpt2", "vocab_size": 768, "n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 256}
    subject = build_subject(config, task.texts())
    before = weights(subject)
    figures = apply(plugin, subject, task=task)
    assert json.dumps(figures, allow_nan=False)
    changed = [not torch.equal(p, before[n]) for n, p in weights(subject).items()]
    # Nothing is specific to the forget rows of a model that knows nothing.
    assert any(changed) or plugin.card.name == "ssd"


@invariant("edit", "sequential")
def edits_in_float32(plugin: type[Edit]) -> None:
    """A model in a small precision is worked on, and left, in float32."""
    subject = fresh()
    subject.model.bfloat16()
    apply(plugin, subject)
    assert {p.dtype for p in subject.model.parameters()} == {torch.float32}
