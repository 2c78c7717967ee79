"""Models that forget by a wrapper, guards and exact ensembles alike: whatever a bare model can be asked, so can they.

A guard is built around the memoriser; an exact method trains on its rows. What a deletion proves is checked elsewhere.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from expunge.attacks._lib.vectors import placeholders_filled, with_placeholders
from expunge.errors import UsageError
from expunge.guards.uld import ULD
from expunge.methods.run_context import RunContext
from expunge.models.language import CausalLM
from expunge.models.load import load_subject, read_config, register_own
from expunge.models.tiny import build_subject
from expunge.records.settings import RunSettings
from expunge.testing.checks.wrapped_models import asked, logits, small, wrap, wrapped
from expunge.testing.support import batch_of, fresh, hooks, memoriser, small_task

from ..journey.test_families import FAMILIES

MORE = {
    "gemma2": FAMILIES["gemma"] | {"sliding_window": 8},
    "bloom": {"vocab_size": 400, "hidden_size": 32, "n_layer": 2, "n_head": 2},
}


def test_a_fresh_process_finds_the_class(tmp_path: Path) -> None:
    """Through our own loading, which imports the plug-in because the config names it."""
    wrapped(ULD).save(tmp_path)
    code = (f"from expunge.models.load import load_subject\nsubject = load_subject({str(tmp_path)!r})\n"
            "print(type(subject.model).__name__, subject.fingerprint)")
    said = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert said.stdout.split() == ["ULDForCausalLM", wrapped(ULD).fingerprint]


def test_a_missing_plugin_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "expunge_nonesuch"}))
    with pytest.raises(UsageError, match="nonesuch"):
        register_own(tmp_path)
    with pytest.raises(UsageError, match="nonesuch"):
        read_config(tmp_path)
    for text in ('{"model_type": "llama"}', "{}", "[1]", "{"):
        (tmp_path / "config.json").write_text(text)
        register_own(tmp_path)  # for the loader to judge
    register_own(tmp_path / "nowhere")


def test_a_soft_prompt_reaches_target_and_assistant() -> None:
    """Vectors beside the question are beside the assistant's question too."""
    subject, seen = wrapped(ULD), []
    prompted = with_placeholders(subject, 2, "before")
    module = subject.model.get_input_embeddings()
    assert module is subject.model.assistant.get_input_embeddings()
    with placeholders_filled(prompted, torch.ones(2, subject.width)):
        handle = module.register_forward_hook(lambda module, args, out: seen.append(out[:, :3].eq(1).all(-1).any()))
        prompted.answers(batch_of(prompted, small_task().forget[:1]))
        handle.remove()
    assert len(seen) == 2 and all(seen)


def test_from_the_command_line(cli: Any, rows: Any, tmp_path: Path) -> None:
    """Forget, audit and report, without a word about the class; rows without paraphrases train without."""
    memoriser().save(tmp_path / "original")
    run = tmp_path / "run"
    cli("forget", tmp_path / "original", *rows.words, "--method", "uld(lr=1e-2)", "--steps", 3, "--out", run)
    record = json.loads((run / "record.json").read_text())
    assert record["status"] == "finished" and record["best"]["rows"] == {
        "forget": 4, "paraphrases": 0, "retain": 6, "wrong_answers": 0, "asked_by_audit": 0}
    assert "import expunge.guards.uld" in (run / "model" / "README.md").read_text()
    found = cli("audit", run, *rows.words, "--suite", "forget.probability,forget.rouge_l", "--json").json
    assert all(score["value"] != score["controls"]["original"] for score in found["scores"][:1])
    cli("report", run, "--out", tmp_path / "page.html")
    said = cli("forget", run, *rows.words, "--method", "uld", "--out", tmp_path / "again", code=3).err
    assert "guarded" in said and not (tmp_path / "again").exists()


def test_too_many_blocks_are_refused() -> None:
    with pytest.raises(UsageError, match="It has 3 blocks"):
        ULD(layers=4).build(fresh(), small(), RunContext(settings=RunSettings(steps=1)))


def test_the_assistant_is_a_view_of_the_target() -> None:
    """It owns its adapters and nothing else, follows moves and modes, and copies no hook that somebody left."""
    subject, batch = wrap(ULD, fresh(), steps=2), batch_of(memoriser(), asked())
    model = subject.model
    own = {id(p) for p in model.adapters.parameters()} | {id(p) for p in model.target.parameters()}
    assert {id(p) for p in model.assistant.parameters()} <= own
    assert not any(name.startswith("_view") for name in model.state_dict())
    before, first = logits(subject), model.assistant
    model.double().float()
    assert model.assistant is not first and torch.equal(logits(subject), before)
    assert model.train().assistant.training and not model.eval().assistant.training
    model.float()
    handle = next(iter(subject.blocks.values())).register_forward_hook(lambda module, args, out: out)
    assert hooks(CausalLM(model.assistant, subject.encoder)) == [] != hooks(subject)
    handle.remove()
    with torch.no_grad():  # what is done to the target is done to the assistant's blocks
        seen = model.assistant(input_ids=batch.ids_BT).logits
        next(iter(subject.blocks.values())).mlp.down_proj.weight.zero_()
        assert not torch.equal(model.assistant(input_ids=batch.ids_BT).logits, seen)


@pytest.mark.parametrize("family", [*FAMILIES, *MORE])
def test_families(family: str, tmp_path: Path) -> None:
    """Blocks, norm and head are found under whatever names; the target keeps its bits, also behind sliding windows."""
    task = small()
    bare = build_subject({"model_type": family} | (FAMILIES | MORE)[family], task.texts())
    rows = list(task.forget)
    before = logits(bare, rows)
    found = ULD(lr=3e-2, layers=1, rank=4).build(bare, task, RunContext(settings=RunSettings(steps=2, batch_size=4)))[0]
    assert torch.equal(logits(CausalLM(found.model.target, found.encoder), rows), before)
    assert float((logits(found, rows) - before).abs().max()) > 1e-3
    found.save(tmp_path)
    again = load_subject(tmp_path)
    assert torch.equal(logits(again, rows), logits(found, rows))
    ids = torch.tensor([found.encoder.prompt(rows[0])])
    settings = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "max_new_tokens": 10, "do_sample": False}
    cached, slow = (again.model.generate(**settings, use_cache=use) for use in (True, False))
    assert torch.equal(cached, slow)
