"""Random recipes over all kinds: each runs two steps, or is refused before anything is touched."""

from __future__ import annotations

import json
import os
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

import expunge
from expunge import registry
from expunge.errors import ExpungeError, PreflightError, UsageError
from expunge.methods.base import Objective, Optimizer
from expunge.methods.plan import preflight
from expunge.methods.recipe import Stage, parse
from expunge.models.language import CausalLM
from expunge.models.load import load_subject
from expunge.models.scope import Scope
from expunge.plugin import Kind
from expunge.records.settings import RunSettings
from expunge.registry import Entry
from expunge.seeding import stream
from expunge.terms import parse_sum
from expunge.testing.checks.cards import required, variants
from expunge.testing.support import Trained, fresh, hooks, made, memoriser, small_task, train, weights

RECIPES = 1000
CHUNKS = 10
"""Each is a slow test of its own, of a hundred recipes: in fewer, chance moves the share that runs by too much."""
RUN = int(os.environ.get("EXPUNGE_TEST_CHUNKS", "10"))
"""How many of them run. A hundred recipes took 60 to 130 s of a core, so that all take 10 to 20 minutes of one."""
PLANNED, AT_ONCE = 300, 15
"""Recipes that the default suite plans or refuses, and how many in one test."""
FEW = 20
"""Recipes beside those that the default suite runs, one in one test."""
HURRY = {"lat": "lat(steps=2)", "zeroth_order": "zeroth_order(queries=2)", "rule": "rule(samples=2, tokens=6)",
         "adaptive": "adaptive(samples=1, tokens=6)", "dmm": "dmm(models=2, epochs=0.05)"}
"""Settings that make a long plug-in short; what it does stays the same."""


def one_of(kind: Kind, rng: random.Random, *, left_out: float) -> list[Entry]:
    """A plug-in of a kind, or none."""
    found = registry.of_kind(kind)
    return [] if not found or rng.random() < left_out else [rng.choice(found)]


def term(entry: Entry, rng: random.Random) -> str:
    """The plug-in with its defaults or with one option moved within its space or its accepted values."""
    if entry.name in HURRY:
        return HURRY[entry.name]
    plugin = entry.load()
    options = required(plugin)
    searched: list[dict[str, Any]] = [options]
    if rng.random() < 0.5:
        searched = [v for v in variants(plugin) if all(k in plugin.space or k in options for k in v)] or searched
    return plugin(**rng.choice(searched)).text()


def random_recipe(number: int) -> str:
    """One objective and any modifiers, in any order; some ask for two of what can only be once.

    One in twenty has a method of requests in place of the objective, mostly without modifiers, or beside it.
    """
    rng = stream(number, "recipe")
    chosen = [*one_of("objective", rng, left_out=0.0), *one_of("retain", rng, left_out=0.4),
              *one_of("combine", rng, left_out=0.3), *one_of("optimizer", rng, left_out=0.2),
              *one_of("scope", rng, left_out=0.3), *one_of("sampler", rng, left_out=0.6),
              *one_of("perturb", rng, left_out=0.5), *one_of("stop", rng, left_out=0.8)]
    # A stream of its own: the recipes of before keep their other parts.
    chosen += one_of("trim", stream(number, "trim"), left_out=0.8)
    if rng.random() < 0.15:
        chosen += one_of("perturb", rng, left_out=0.0)
    if rng.random() < 0.1:
        chosen += one_of("retain", rng, left_out=0.0)
    source = stream(number, "source")
    if source.random() < 1 / 20:
        requests, place = one_of("sequential", source, left_out=0.0), source.random()
        chosen = requests if place < 0.6 else requests + (chosen[1:] if place < 0.8 else chosen)
    rng.shuffle(chosen)
    parts = [term(entry, rng) for entry in chosen]
    # A decay that would show on anything that may not move.
    parts = [p if not is_optimizer(p) else with_decay(p) for p in parts]
    return " + ".join(parts)


def is_optimizer(text: str) -> bool:
    return registry.find(text.split("(")[0]).kind == "optimizer"


def with_decay(text: str) -> str:
    ((call,),) = parse_sum(text)
    plugin = registry.load(call.name)
    return plugin(**{**dict(call.options), "lr": 1e-3, "weight_decay": 0.5, "warmup": 0.0}).text()


def planned_stage(recipe: str, subject: CausalLM) -> Stage:
    """The stage of a recipe, after preflight; raises UsageError or PreflightError where it is refused."""
    (stage,) = parse(recipe, len(subject.blocks))
    preflight(recipe, (stage,), small_task(), subject.encoder, subject.model.config,
              RunSettings(steps=2, batch_size=2, accumulate=2))
    return stage


def attempt(recipe: str) -> tuple[Stage, Trained, dict[str, torch.Tensor]] | CausalLM | ExpungeError:
    """Two steps, all requests of a method that takes none of the run, or the refusal. Anything else that is raised is a
    failure of the algebra."""
    subject = fresh()
    try:
        stage = planned_stage(recipe, subject)
    except (UsageError, PreflightError) as refused:
        return refused
    if stage.edit is not None:
        few = small_task().model_copy(update={"forget": small_task().forget[::6]})
        stage.edit.apply(subject, few, 0)
        return subject
    assert isinstance(stage.objective, Objective) and isinstance(stage.optimizer, Optimizer)
    for part in stage.builders.values():
        part.made = made(part.text())
    before: dict[str, torch.Tensor] = {}

    def prepare(scope: Scope, method: Any) -> None:
        before.update(weights(scope.subject))

    run = train(stage, subject=subject, steps=2, batch_size=2, accumulate=2, prepare=prepare)
    return stage, run, before


def check(recipe: str) -> str:
    """Run or refuse one recipe and look for traces; returns what became of it."""
    original = {n: p.clone() for n, p in weights(memoriser()).items()}
    found = attempt(recipe)
    if isinstance(found, ExpungeError):
        assert found.what and (found.why or found.fix), f"{recipe}: refused without a reason"
        return "refused"
    assert all(torch.equal(p, original[n]) for n, p in weights(memoriser()).items()), f"{recipe}: the original moved"
    subject = found if isinstance(found, CausalLM) else found[1].subject
    after = weights(subject)
    assert all(bool(p.isfinite().all()) for p in after.values()), recipe
    assert hooks(subject) == [], recipe
    assert not subject.model.training and all(p.grad is None for p in subject.model.parameters()), recipe
    if isinstance(found, CausalLM):
        assert any(not torch.equal(value, original[name]) for name, value in after.items()), f"{recipe}: nothing moved"
        return "ran"
    stage, run, before = found
    for name, value in before.items():
        if name not in run.scope.names:
            assert torch.equal(after[name], value), f"{recipe}: {name} is outside the scope and moved"
        elif name in run.scope.masks:
            outside = ~run.scope.masks[name]
            assert torch.equal(after[name][outside], value[outside]), f"{recipe}: {name} moved outside its mask"
    wanted = any(n.startswith("reference.") for n in stage.needs)
    assert bool(run.reference) == wanted, recipe  # `train` ended with `verify`: its checksum had not moved
    assert len(run.lines) == 2
    return "ran"


def outcome(number: int) -> str:
    """What became of a random recipe; a crash is a failure that names it."""
    recipe = random_recipe(number)
    try:
        return check(recipe)
    except AssertionError:
        raise
    except Exception as error:
        raise AssertionError(f"recipe {number}, {recipe!r}, crashed: {type(error).__name__}: {error}") from error


@pytest.mark.slow
@pytest.mark.parametrize("chunk", range(min(RUN, CHUNKS)))
def test_random_recipes_run_or_are_refused(chunk: int) -> None:
    outcomes = Counter(outcome(number) for number in range(chunk, RECIPES, CHUNKS))
    assert outcomes["ran"] >= 0.5 * (RECIPES // CHUNKS), outcomes


@pytest.mark.parametrize("number", range(RECIPES, RECIPES + FEW))
def test_a_random_recipe_runs_or_is_refused(number: int) -> None:
    assert outcome(number) in ("ran", "refused")


@pytest.mark.parametrize("start", range(0, PLANNED, AT_ONCE))
def test_random_recipes_are_planned_or_refused(start: int) -> None:
    """Without a step: what cannot combine says so, with a reason, and most can."""
    planned = 0
    for number in range(start, start + AT_ONCE):
        recipe = random_recipe(number)
        try:
            planned += bool(planned_stage(recipe, memoriser()))
        except (UsageError, PreflightError) as refused:
            assert refused.what and (refused.why or refused.fix), f"{recipe}: refused without a reason"
        except Exception as error:
            raise AssertionError(f"recipe {number}, {recipe!r}, crashed: {type(error).__name__}: {error}") from error
    assert planned >= 0.4 * AT_ONCE


def test_the_random_recipes_reach_every_plugin() -> None:
    """Every plug-in that a stage can hold stands in one at least, long before they end."""
    recipes = [random_recipe(number) for number in range(RECIPES // 2)]
    named = Counter(part.split("(")[0].strip() for recipe in recipes for part in recipe.split(" + "))
    kinds: Sequence[Kind] = ("objective", "retain", "combine", "perturb", "trim", "stop", "optimizer", "scope",
                             "sampler", "sequential")
    missing = {e.name for kind in kinds for e in registry.of_kind(kind)} - named.keys()
    assert not missing, f"no random recipe names {missing}"
    assert len(set(recipes)) >= 0.9 * len(recipes)


def test_a_crash_would_be_seen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The checker notices a weight that moves outside its scope, and a crash in the middle."""
    real = Scope.enforce
    recipe = "npo + retain_nll + layers(index=1) + adamw(lr=0.001, weight_decay=0.5, warmup=0.0)"
    assert check(recipe) == "ran"

    def leak(self: Scope) -> None:
        real(self)
        with torch.no_grad():
            next(iter(self.subject.model.parameters())).add_(1e-3)

    with monkeypatch.context() as patch:
        patch.setattr(Scope, "enforce", leak)
        with pytest.raises(AssertionError, match="outside the scope"):
            check(recipe)


SHORT = {"uld": "uld(lr=0.01, batch=4, paraphrases=0, wrong_answers=0)", "first_epoch": "first_epoch(moves=1)",
         "eco": "eco(strength=0.8)",
         "task_vector": "task_vector(epochs=0.2, lr=0.001)", "whp": "whp(reinforce_epochs=0.2)",
         "meow": "meow(select='random')", "altpo": "dpo", "lat": "lat(steps=2)",
         "zeroth_order": "zeroth_order(queries=1)", "hybrid": "hybrid(queries=1)",
         "rule": "rule(samples=2, tokens=6)", "adaptive": "adaptive(samples=1, tokens=6)", "u2a": "u2a(outer=2)",
         "knowpo": "knowpo(tokens=6)", "dmm": "dmm(models=2, epochs=0.05)",
         "bidirectional": "bidirectional(tokens=6)", "fit": "fit(epochs=1)",
         **{e.name: f"{e.name}(clients=2, rounds=1, epochs=0.2)" for e in registry.of_kind("federated")}}
"""Long plug-ins made short; altpo needs a model that can follow a request, and has checks of its own."""
MIXED = 40


def random_stages(number: int) -> str:
    """One or two stages, each with any source of forgetting and perhaps a few modifiers."""
    rng = stream(number, "stages")

    def stage() -> str:
        kind = rng.choice(("objective", "objective", "preset", "edit", "guard", "exact", "sequential"))
        chosen = [rng.choice(registry.of_kind(kind))]
        for modifier in ("retain", "combine", "optimizer", "scope", "perturb"):
            chosen += one_of(modifier, rng, left_out=0.8)  # type: ignore[arg-type]
        # A stream of its own: the stages of before keep their other parts.
        chosen += one_of("federated", stream(number, "federated", len(chosen)), left_out=0.8)
        return " + ".join(SHORT.get(e.name) or e.load()(**required(e.load())).text() for e in chosen)

    return " >> ".join(stage() for _ in range(rng.choice((1, 1, 2))))


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The memoriser on disk, as a user would name it."""
    place = tmp_path_factory.mktemp("saved") / "model"
    memoriser().save(place)
    return place


@pytest.mark.parametrize("chunk", range(4))
def test_any_source_in_any_stage_runs_or_is_refused(chunk: int, saved: Path, tmp_path: Path) -> None:
    """The whole way of `expunge forget`: what is refused leaves no folder, what runs leaves a model that loads."""
    task = small_task().model_copy(update={"forget": small_task().forget[:6], "retain": small_task().retain[:12]})
    bits = (saved / "model.safetensors").read_bytes()
    outcomes: Counter[str] = Counter()
    for number in range(chunk, MIXED, 4):
        recipe, out = random_stages(number), tmp_path / str(number)
        try:
            expunge.forget(saved, method=recipe, out=out, task=task, steps=1, batch_size=2)
        except (UsageError, PreflightError) as refused:
            assert refused.what and (refused.why or refused.fix), recipe
            # Whether rocr finds room for its edit shows in the weights alone; then the record says how it ended.
            late = "rocr" in recipe and json.loads((out / "record.json").read_text())["status"] == "failed" \
                if out.exists() else True
            assert late, f"{recipe}: refused in the middle: {refused}"
            outcomes["refused"] += 1
            continue
        except Exception as error:
            raise AssertionError(f"stages {number}, {recipe!r}, crashed: {type(error).__name__}: {error}") from error
        assert load_subject(out).model is not None
        assert (saved / "model.safetensors").read_bytes() == bits, f"{recipe}: the original on disk moved"
        outcomes["ran"] += 1
    assert outcomes["ran"] >= 2, outcomes
