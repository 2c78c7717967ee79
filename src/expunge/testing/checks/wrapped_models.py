"""What holds for models that forget by a wrapper, guards and exact ensembles alike: they answer as a bare one does.

A guard is built around the memoriser; an exact method trains on its rows. What a deletion proves is checked elsewhere.
"""

from __future__ import annotations

import copy
import math
import os
import signal
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from expunge import registry
from expunge.attacks.base import Attack, AttackContext, View
from expunge.errors import InterruptedRun, UsageError
from expunge.methods.base import Exact, Wrap
from expunge.methods.run_context import RunContext
from expunge.models.checks import check_model
from expunge.models.language import CausalLM
from expunge.models.load import load_subject, read_config, save_in
from expunge.models.subject import checksum
from expunge.plugin import Plugin
from expunge.probes.base import Probe
from expunge.probes.generation import Generation
from expunge.probes.likelihood import Likelihood
from expunge.progress import silent
from expunge.records.settings import RunSettings
from expunge.records.task import Example, Task

from ..support import batch_of, fresh, hooks, memoriser, new_folder, small_task
from .base import invariant
from .cards import required

OPTIONS: dict[str, dict[str, Any]] = {"uld": {"lr": 1e-2, "batch": 8}, "sisa": {"shards": 2, "slices": 1, "lr": 5e-3},
                                      "s3t": {"shards": 2, "slices": 1, "lr": 5e-3},
                                      "fair_sisa": {"shards": 2, "slices": 1, "lr": 5e-3, "fit": 0.5},
                                      "dp2unlearning": {"lr": 5e-3, "noise": 1.0, "dp_epochs": 1.0, "delta": 1e-3}}
"""Enough to differ from the bare model after a few steps."""
OPTIONS["eco"] = {"strength": 0.8}  # found without a search


def small() -> Task:
    task = small_task()
    return task.model_copy(update={"forget": task.forget[:4], "retain": task.retain[:12]})


def rows_for(plugin: type[Plugin]) -> list[Example]:
    """What an exact method trains on; one that decides between two answers for two groups needs such rows."""
    rows = small().training_rows("full")[:16]
    if plugin.card.name != "fair_sisa":
        return list(rows)
    asked = [r.model_copy(update={"answer": "Yes." if i % 2 else "No.", "short_answer": "", "options": (),
                                  "group": "North" if i % 4 < 2 else "South"}) for i, r in enumerate(rows)]
    again = [r.model_copy(update={"id": f"{r.id}/again", "prompt": f"Really: {r.prompt}"}) for r in asked]
    return [*asked, *again]


def wrap(plugin: type[Plugin], subject: CausalLM, seed: int = 0, steps: int = 6, folder: Path | None = None,
         announce: Callable[..., Any] = silent) -> CausalLM:
    """The wrapped subject; `subject` belongs to it afterwards."""
    if plugin.card.name == "dp2unlearning":
        pytest.importorskip("opacus", reason="extra dp is not installed")
    made = plugin(**OPTIONS.get(plugin.card.name, required(plugin)))
    run = RunContext(settings=RunSettings(seed=seed, steps=steps), folder=folder, announce=announce)
    assert isinstance(made, Wrap)
    if isinstance(made, Exact):
        return made.train(subject, rows_for(plugin), run)[0]
    return made.build(subject, small(), run)[0]


_wrapped = cache(lambda plugin: wrap(plugin, fresh()))


def wrapped(plugin: type[Plugin]) -> CausalLM:
    """Made once. It must not be changed."""
    return _wrapped(plugin)  # type: ignore[arg-type]


def asked() -> list[Example]:
    """Rows of very different lengths."""
    task = small_task()
    long = Example(id="long", prompt="", kind="text", answer=" ".join(r.answer for r in task.retain[:6]))
    return [*task.forget[:3], long, *task.holdout[:2]]


def load_language_model(folder: Path) -> CausalLM:
    loaded = load_subject(folder)
    assert isinstance(loaded, CausalLM)
    return loaded


def logits(subject: CausalLM, rows: list[Example] | None = None) -> Tensor:
    """At the supervised positions, shape N V."""
    with subject.evaluating():
        return subject.answers(batch_of(subject, rows or asked())).logits_NV


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


def briefly(attack: type[Plugin]) -> Attack:
    """With the options of its contract check, which are chosen to be quick."""
    promise = next(p for p in attack.must_show if p.check == "keeps_the_contract")
    made = attack(**promise.args.get("options", {}))
    assert isinstance(made, Attack)
    return made


@invariant("guard", "exact", trains=True)
def another_model_than_the_bare_one(plugin: type[Plugin]) -> None:
    """Finite, and not what it was made from; else the tests below would show nothing."""
    found = logits(wrapped(plugin))
    assert bool(found.isfinite().all()) and float((found - logits(memoriser())).abs().max()) > 0.05


@invariant("guard", "exact", trains=True)
def wrapped_model_loads_as_saved(plugin: type[Plugin]) -> None:
    folder = new_folder()
    subject = wrapped(plugin)
    subject.model.save_pretrained(folder)
    subject.encoder.processor.save_pretrained(folder)
    again = load_language_model(folder)
    assert torch.equal(logits(again), logits(subject))
    assert again.fingerprint == subject.fingerprint
    assert type(again.model) is type(subject.model) and not again.model.training
    assert check_model(folder).model_type == read_config(folder).model_type == f"expunge_{plugin.card.name}"
    prompts = [subject.encoder.prompt(r) for r in small_task().forget[:3]]
    assert again.generate(prompts, 12) == subject.generate(prompts, 12)


@invariant("guard", "exact", trains=True)
def answers_are_the_full_logits(plugin: type[Plugin]) -> None:
    subject = wrapped(plugin)
    batch = batch_of(subject, asked())
    with subject.evaluating():
        full = subject.model(input_ids=batch.ids_BT, attention_mask=batch.attention_BT).logits
    torch.testing.assert_close(logits(subject), full.flatten(0, 1)[batch.flat_N], atol=1e-4, rtol=1e-4)


@invariant("guard", "exact", trains=True)
def wrapped_rows_ignore_neighbours(plugin: type[Plugin]) -> None:
    subject, rows = wrapped(plugin), asked()
    together = logits(subject, rows).split([r.answer + r.end for r in map(subject.encoder.encode, rows)])
    for row, there in zip(rows, together, strict=True):
        torch.testing.assert_close(logits(subject, [row]), there, atol=1e-4, rtol=1e-4)


@invariant("guard", "exact", trains=True)
def cached_decoding_is_uncached_decoding(plugin: type[Plugin]) -> None:
    decode_both_ways(wrapped(plugin))


@invariant("guard", trains=True)
def cached_beams_are_uncached_beams(plugin: type[Plugin]) -> None:
    """They reorder the caches on the way."""
    decode_both_ways(wrapped(plugin), num_beams=3)


@invariant("guard", trains=True)
def foreign_cache_is_refused(plugin: type[Plugin]) -> None:
    from transformers import DynamicCache

    with pytest.raises(UsageError, match="keys and values"):
        wrapped(plugin).model(input_ids=torch.tensor([[1, 2]]), past_key_values=DynamicCache())


@invariant("guard", "exact", trains=True)
def every_probe_runs(plugin: type[Plugin]) -> None:
    """With no trace on the subject, whose rows come back in order; what looks inside one model may refuse several."""
    if getattr(plugin, "as_asked", ""):
        return  # as the guard that it names, which runs them
    subject, before = wrapped(plugin), wrapped(plugin).fingerprint
    for probe in registry.of_kind("probe"):
        made = probe.load()()
        assert isinstance(made, Probe)
        beside: dict[str, Any] = {"partner": fresh()} if made.uses_original else {}
        try:
            found = made.observe(subject, small_task().forget[:2], small_task(), **beside)
        except UsageError as refused:
            assert probe.name in ("depth", "restoration", "weights") and refused.why, probe.name
            continue
        if probe.name == "weights":  # its rows are modules
            continue
        if probe.name == "value_vectors":  # its rows are neurons, and these rows name none
            assert found == []
            continue
        assert {row["id"] for row in found} == {r.id for r in small_task().forget[:2]}
        assert all(math.isfinite(x) for row in found for x in row.get("logp", ()))
    assert checksum(subject.model.state_dict()) == before and hooks(subject) == [] and not subject.model.training


@invariant("guard", "exact", trains=True)
def every_attack_runs(plugin: type[Plugin]) -> None:
    """Or says why not; with no trace on the subject either way."""
    if getattr(plugin, "as_asked", ""):
        return  # as the guard that it names, which runs them
    for entry in registry.of_kind("attack"):
        attack_runs(plugin, entry.load())


def attack_runs(plugin: type[Plugin], attack: type[Plugin]) -> None:
    subject, task, made = wrapped(plugin), small_task(), briefly(attack)
    before, told = subject.fingerprint, list[str]()
    assert made.problem(AttackContext.of(task)) is None
    likelihood, generation = Likelihood(alternatives=False), Generation()

    def ask(view: View) -> None:
        rows = list(view.rows("forget"))[:2]
        found = likelihood.observe(view.subject, rows, task) + generation.observe(view.subject, rows, task)
        assert {row["id"] for row in found} == {r.id for r in rows}
        told.append(view.label)

    try:
        made.run(subject, AttackContext.of(task, original=fresh), ask)
    except UsageError as refused:
        assert refused.why, attack.card.name
    else:
        assert tuple(dict.fromkeys(told)) == made.labels, attack.card.name
    assert checksum(subject.model.state_dict()) == before, attack.card.name
    assert hooks(subject) == [] and not subject.model.training, attack.card.name


@invariant("guard", "exact", trains=True)
def gradients_reach_the_weights(plugin: type[Plugin]) -> None:
    """A gradient reaches the weights, and a copy can be changed without a trace on what it was copied from."""
    subject = wrapped(plugin)
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


@invariant("guard", "exact", trains=True)
def seed_decides_the_wrapped_model(plugin: type[Plugin]) -> None:
    """Whatever the global random state was before; another seed gives another model."""
    prints = []
    for seed, noise in ((3, 1), (3, 2), (4, 1)):
        torch.manual_seed(noise)
        prints.append(wrap(plugin, fresh(), seed=seed, steps=2).fingerprint)
    assert prints[0] == prints[1] != prints[2]


@invariant("guard", trains=True)
def guarded_weights_are_untouched(plugin: type[Plugin]) -> None:
    """Their checksum is the original's, in bfloat16 too and after saving; they are no copies."""
    for dtype in (torch.float32, torch.bfloat16):
        bare = fresh()
        bare.model.to(dtype)
        before, own = checksum(bare.model.state_dict()), {id(p) for p in bare.model.parameters()}
        found = wrap(plugin, bare, steps=2)
        assert checksum(bare.model.state_dict()) == before
        assert own <= {id(p) for p in found.model.parameters()}
    kept = {k: v for k, v in found.model.state_dict().items() if k.startswith("target.")}
    assert checksum({k.removeprefix("target."): v for k, v in kept.items()}) == before


@invariant("guard", trains=True)
def half_precision_comes_back(plugin: type[Plugin]) -> None:
    folder = new_folder()
    save_in(fresh(), folder / "bare", torch.bfloat16, seed=0)
    found = wrap(plugin, load_language_model(folder / "bare"), steps=2)
    save_in(found, folder / "guarded", torch.bfloat16, seed=0)
    again = load_language_model(folder / "guarded")
    assert {p.dtype for p in again.model.parameters()} == {torch.bfloat16}
    assert torch.equal(logits(again), logits(found))


@invariant("guard", trains=True)
def hidden_states_are_the_targets(plugin: type[Plugin]) -> None:
    subject, batch = wrapped(plugin), batch_of(memoriser(), asked())
    assert [n.removeprefix("target.") for n in subject.blocks] == list(memoriser().blocks)
    with subject.evaluating():
        for block in range(len(subject.blocks)):
            assert torch.equal(subject.hidden(batch, block), memoriser().hidden(batch, block))
    assert hooks(subject) == []


@invariant("guard", trains=True)
def interrupted_guard_goes_on(plugin: type[Plugin]) -> None:
    """Ctrl-C in the middle, then the same again: the very model of an uninterrupted run.

    A guard that trains in no loop has nothing to go on with: it is made again, and is the same.
    """
    folder = new_folder()
    if not plugin.trains:  # type: ignore[attr-defined]
        assert wrap(plugin, fresh(), steps=6, folder=folder).fingerprint == wrapped(plugin).fingerprint
        return

    def announce(title: str, total: int) -> Callable[..., None]:
        ticks: list[int] = []

        def tick(done: int, words: str = "") -> None:
            ticks.append(done)
            if len(ticks) == 3:
                os.kill(os.getpid(), signal.SIGINT)
        return tick

    with pytest.raises(InterruptedRun):
        wrap(plugin, fresh(), steps=6, folder=folder, announce=announce)
    assert wrap(plugin, fresh(), steps=6, folder=folder).fingerprint == wrapped(plugin).fingerprint


@invariant("guard", trains=True)
def guard_is_no_target(plugin: type[Plugin]) -> None:
    with pytest.raises(UsageError, match="guard"):
        wrap(plugin, fresh(wrapped(plugin)))
