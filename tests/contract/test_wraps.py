"""Models that forget by a wrapper, guards and exact ensembles alike: whatever a bare model can be asked, so can they.

A guard is built around the memoriser; an exact method trains on its rows. What a deletion proves is checked elsewhere.
"""

from __future__ import annotations

import copy
import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from expunge import registry
from expunge.attacks._lib.vectors import placeholders_filled, with_placeholders
from expunge.attacks.base import Attack, AttackContext, View
from expunge.errors import InterruptedRun, UsageError
from expunge.guards.uld import ULD
from expunge.methods.base import Exact, Wrap
from expunge.methods.run_context import RunContext
from expunge.models.language import CausalLM
from expunge.models.load import check_model, load_subject, read_config, register_own, save_in
from expunge.models.subject import checksum
from expunge.models.tiny import build_subject
from expunge.plugin import Plugin
from expunge.probes.base import Probe
from expunge.probes.generation import Generation
from expunge.probes.likelihood import Likelihood
from expunge.progress import silent
from expunge.records.settings import RunSettings
from expunge.records.task import Example, Task
from expunge.registry import Entry
from expunge.testing.support import batch_of, fresh, hooks, memoriser, small_task

from ..journey.test_families import FAMILIES

OPTIONS: dict[str, dict[str, Any]] = {"uld": {"lr": 1e-2, "batch": 8}, "sisa": {"shards": 2, "slices": 1, "lr": 5e-3}}
"""Enough to differ from the bare model after a few steps."""
ENTRIES = registry.of_kind("guard", "exact")
each = pytest.mark.parametrize("entry", ENTRIES, ids=lambda e: e.name)
each_guard = pytest.mark.parametrize("entry", [e for e in ENTRIES if e.kind == "guard"], ids=lambda e: e.name)
MORE = {
    "gemma2": FAMILIES["gemma"] | {"sliding_window": 8},
    "bloom": {"vocab_size": 400, "hidden_size": 32, "n_layer": 2, "n_head": 2},
}


def small() -> Task:
    task = small_task()
    return task.model_copy(update={"forget": task.forget[:4], "retain": task.retain[:12]})


def wrap(entry: Entry, subject: CausalLM, seed: int = 0, steps: int = 6, folder: Path | None = None,
         announce: Callable[..., Any] = silent) -> CausalLM:
    """The wrapped subject; `subject` belongs to it afterwards."""
    plugin = entry.load()(**OPTIONS.get(entry.name, {}))
    run = RunContext(settings=RunSettings(seed=seed, steps=steps), folder=folder, announce=announce)
    assert isinstance(plugin, Wrap)
    if isinstance(plugin, Exact):
        return plugin.train(subject, small().training_rows("full")[:16], run)[0]
    return plugin.build(subject, small(), run)[0]


@cache
def wrapped(name: str) -> CausalLM:
    """Made once. Nobody may change it."""
    return wrap(registry.find(name), fresh())


def asked() -> list[Example]:
    """Rows of very different lengths."""
    task = small_task()
    long = Example(id="long", prompt="", kind="text", answer=" ".join(r.answer for r in task.retain[:6]))
    return [*task.forget[:3], long, *task.holdout[:2]]


def logits(subject: CausalLM, rows: list[Example] | None = None) -> Tensor:
    """At the supervised positions, shape N V."""
    with subject.evaluating():
        return subject.answers(batch_of(subject, rows or asked())).logits_NV


@each
def test_it_is_another_model(entry: Entry) -> None:
    """Finite, and not what it was made from; else the tests below would show nothing."""
    found = logits(wrapped(entry.name))
    assert bool(found.isfinite().all()) and float((found - logits(memoriser())).abs().max()) > 0.05


@each
def test_it_loads_as_it_was_saved(entry: Entry, tmp_path: Path) -> None:
    subject = wrapped(entry.name)
    subject.model.save_pretrained(tmp_path)
    subject.encoder.processor.save_pretrained(tmp_path)
    again = load_subject(tmp_path)
    assert torch.equal(logits(again), logits(subject))
    assert again.fingerprint == subject.fingerprint
    assert type(again.model) is type(subject.model) and not again.model.training
    assert check_model(tmp_path).model_type == read_config(tmp_path).model_type == f"expunge_{entry.name}"
    prompts = [subject.encoder.prompt(r) for r in small_task().forget[:3]]
    assert again.generate(prompts, 12) == subject.generate(prompts, 12)


def test_a_fresh_process_finds_the_class(tmp_path: Path) -> None:
    """Through our own loading, which imports the plug-in because the config names it."""
    wrapped("uld").save(tmp_path)
    code = (f"from expunge.models.load import load_subject\nsubject = load_subject({str(tmp_path)!r})\n"
            "print(type(subject.model).__name__, subject.fingerprint)")
    said = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert said.stdout.split() == ["ULDForCausalLM", wrapped("uld").fingerprint]


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


@each
def test_picked_answers_are_the_full_logits(entry: Entry) -> None:
    subject = wrapped(entry.name)
    batch = batch_of(subject, asked())
    with subject.evaluating():
        full = subject.model(input_ids=batch.ids_BT, attention_mask=batch.attention_BT).logits
    torch.testing.assert_close(logits(subject), full.flatten(0, 1)[batch.flat_N], atol=1e-4, rtol=1e-4)


@each
def test_neighbours_in_a_batch_change_nothing(entry: Entry) -> None:
    subject, rows = wrapped(entry.name), asked()
    together = logits(subject, rows).split([r.answer + r.end for r in map(subject.encoder.encode, rows)])
    for row, there in zip(rows, together, strict=True):
        torch.testing.assert_close(logits(subject, [row]), there, atol=1e-4, rtol=1e-4)


def decode_both_ways(subject: CausalLM, **way: Any) -> None:
    """In a padded batch with a cache, or each row alone and read anew for every token: the same words."""
    prompts = [list(subject.encoder.prompt(r)) for r in asked()[:3]]
    width = max(map(len, prompts))
    ids = torch.tensor([[subject.encoder.pad_id] * (width - len(p)) + p for p in prompts])
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])
    settings = {"max_new_tokens": 14, "do_sample": False, "pad_token_id": subject.encoder.pad_id} | way
    with subject.evaluating():
        cached = subject.model.generate(input_ids=ids, attention_mask=mask, **settings)[:, width:]
        for prompt, found in zip(prompts, cached, strict=True):
            alone = torch.tensor([prompt])
            slow = subject.model.generate(input_ids=alone, attention_mask=torch.ones_like(alone), use_cache=False,
                                          **settings)[0, len(prompt):]
            assert found[: len(slow)].tolist() == slow.tolist()


@each
def test_cached_decoding_is_uncached_decoding(entry: Entry) -> None:
    decode_both_ways(wrapped(entry.name))


@each_guard
def test_so_it_is_with_beams(entry: Entry) -> None:
    """They reorder the caches on the way."""
    decode_both_ways(wrapped(entry.name), num_beams=3)


@each_guard
def test_a_foreign_cache_is_refused(entry: Entry) -> None:
    from transformers import DynamicCache

    with pytest.raises(UsageError, match="keys and values"):
        wrapped(entry.name).model(input_ids=torch.tensor([[1, 2]]), past_key_values=DynamicCache())


@each
def test_every_probe_runs(entry: Entry) -> None:
    """With no trace on the subject, whose rows come back in order; what looks inside one model may refuse several."""
    subject, before = wrapped(entry.name), wrapped(entry.name).fingerprint
    for probe in registry.of_kind("probe"):
        made = probe.load()()
        assert isinstance(made, Probe)
        beside = {"partner": fresh()} if made.uses_original else {}
        try:
            found = made.observe(subject, small_task().forget[:2], small_task(), **beside)
        except UsageError as refused:
            assert probe.name in ("depth", "weights") and refused.why, probe.name
            continue
        if probe.name == "weights":  # its rows are modules
            continue
        assert {row["id"] for row in found} == {r.id for r in small_task().forget[:2]}
        assert all(math.isfinite(x) for row in found for x in row.get("logp", ()))  # type: ignore[attr-defined]
    assert checksum(subject.model.state_dict()) == before and hooks(subject) == [] and not subject.model.training


def briefly(attack: type[Plugin]) -> Attack:
    """With the options of its contract check, which are chosen to be quick."""
    promise = next(p for p in attack.must_show if p.check == "keeps_the_contract")
    made = attack(**promise.args.get("options", {}))
    assert isinstance(made, Attack)
    return made


@each
@pytest.mark.parametrize("attack", registry.of_kind("attack"), ids=lambda e: e.name)
def test_every_attack_runs(entry: Entry, attack: Entry) -> None:
    """Or says why not; with no trace on the subject either way."""
    subject, task, made, told = wrapped(entry.name), small_task(), briefly(attack.load()), []
    before = subject.fingerprint
    assert made.problem(AttackContext.of(task)) is None

    def ask(view: View) -> None:
        rows = list(view.rows("forget"))[:2]
        found = likelihood.observe(view.subject, rows, task) + generation.observe(view.subject, rows, task)
        assert {row["id"] for row in found} == {r.id for r in rows}
        told.append(view.label)

    likelihood, generation = Likelihood(alternatives=False), Generation()
    try:
        made.run(subject, AttackContext.of(task, original=fresh), ask)
    except UsageError as refused:
        assert refused.why
    else:
        assert tuple(dict.fromkeys(told)) == made.labels
    assert checksum(subject.model.state_dict()) == before and hooks(subject) == [] and not subject.model.training


def test_a_soft_prompt_reaches_target_and_assistant() -> None:
    """Vectors beside the question are beside the assistant's question too."""
    subject, seen = wrapped("uld"), []
    prompted = with_placeholders(subject, 2, "before")
    module = subject.model.get_input_embeddings()
    assert module is subject.model.assistant.get_input_embeddings()
    with placeholders_filled(prompted, torch.ones(2, subject.width)):
        handle = module.register_forward_hook(lambda module, args, out: seen.append(out[:, :3].eq(1).all(-1).any()))
        prompted.answers(batch_of(prompted, small_task().forget[:1]))
        handle.remove()
    assert len(seen) == 2 and all(seen)


@each
def test_white_box_access_is_as_to_any_model(entry: Entry) -> None:
    """A gradient reaches the weights, and a copy can be changed without a trace on what it was copied from."""
    subject = wrapped(entry.name)
    before, attacked = logits(subject), CausalLM(copy.deepcopy(subject.model), subject.encoder)
    assert torch.equal(logits(attacked), before)
    attacked.model.requires_grad_(True)
    attacked.answers(batch_of(attacked, small_task().forget[:2])).logp_N.mean().backward()
    reached = [p for p in attacked.model.parameters() if p.grad is not None and float(p.grad.abs().max()) > 0]
    assert len(reached) > 0.5 * len(list(attacked.model.parameters()))
    with torch.no_grad():
        for parameter in reached:
            parameter.add_(parameter.grad, alpha=0.1)
    assert not torch.equal(logits(attacked), before)
    assert torch.equal(logits(subject), before)


@each
def test_the_seed_decides(entry: Entry) -> None:
    """Whatever the global random state was before; another seed gives another model."""
    prints = []
    for seed, noise in ((3, 1), (3, 2), (4, 1)):
        torch.manual_seed(noise)
        prints.append(wrap(entry, fresh(), seed=seed, steps=2).fingerprint)
    assert prints[0] == prints[1] != prints[2]


@each_guard
def test_the_guarded_weights_are_untouched(entry: Entry) -> None:
    """Their checksum is the original's, in bfloat16 too and after saving; they are no copies."""
    for dtype in (torch.float32, torch.bfloat16):
        bare = fresh()
        bare.model.to(dtype)
        before, own = checksum(bare.model.state_dict()), {id(p) for p in bare.model.parameters()}
        found = wrap(entry, bare, steps=2)
        assert checksum(bare.model.state_dict()) == before
        assert own <= {id(p) for p in found.model.parameters()}
    kept = {k: v for k, v in found.model.state_dict().items() if k.startswith("target.")}
    assert checksum({k.removeprefix("target."): v for k, v in kept.items()}) == before


@each_guard
def test_half_precision_comes_back(entry: Entry, tmp_path: Path) -> None:
    save_in(fresh(), tmp_path / "bare", torch.bfloat16, seed=0)
    found = wrap(entry, load_subject(tmp_path / "bare"), steps=2)
    save_in(found, tmp_path / "guarded", torch.bfloat16, seed=0)
    again = load_subject(tmp_path / "guarded")
    assert {p.dtype for p in again.model.parameters()} == {torch.bfloat16}
    assert torch.equal(logits(again), logits(found))


@each_guard
def test_hidden_states_and_blocks_are_the_targets(entry: Entry) -> None:
    subject, batch = wrapped(entry.name), batch_of(memoriser(), asked())
    assert [n.removeprefix("target.") for n in subject.blocks] == list(memoriser().blocks)
    with subject.evaluating():
        for block in range(len(subject.blocks)):
            assert torch.equal(subject.hidden(batch, block), memoriser().hidden(batch, block))
    assert hooks(subject) == []


@each_guard
def test_an_interrupted_guard_goes_on(entry: Entry, tmp_path: Path) -> None:
    """Ctrl-C in the middle, then the same again: the very model of an uninterrupted run."""
    def announce(title: str, total: int) -> Callable[..., None]:
        ticks: list[int] = []

        def tick(done: int, words: str = "") -> None:
            ticks.append(done)
            if len(ticks) == 3:
                os.kill(os.getpid(), signal.SIGINT)
        return tick

    with pytest.raises(InterruptedRun):
        wrap(entry, fresh(), steps=6, folder=tmp_path, announce=announce)
    assert wrap(entry, fresh(), steps=6, folder=tmp_path).fingerprint == wrapped(entry.name).fingerprint


@each_guard
def test_a_guard_is_no_target(entry: Entry) -> None:
    with pytest.raises(UsageError, match="guard"):
        wrap(entry, fresh(wrapped(entry.name)))


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
    subject, batch = wrap(registry.find("uld"), fresh(), steps=2), batch_of(memoriser(), asked())
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
