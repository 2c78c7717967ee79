"""A plug-in is tested by existing: its card, its options, and everything it says it shows."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from expunge import registry
from expunge.errors import UsageError
from expunge.models.language import CausalLM
from expunge.needs import MODEL_NEEDS, NEEDS
from expunge.plugin import METHODS, Plugin, Property
from expunge.registry import Entry
from expunge.terms import parse_sum
from expunge.testing.checks import CHECKS

ENTRIES = registry.of_kind(*METHODS, "probe", "attack", "task")
PROMISES = [pytest.param(e, p, id=f"{e.name}-{i}-{p.check}")
            for e in ENTRIES for i, p in enumerate(e.load().must_show)]
CANDIDATES: tuple[Any, ...] = (0.25, 3, "1-2", "q_proj", 7.5, [0, 1], True, None, "answer", "cosine", 0.99, 1e-7)
"""Values to try on every option; those that an option accepts are used."""

each_plugin = pytest.mark.parametrize("entry", ENTRIES, ids=lambda e: e.name)


def required(plugin: type[Plugin]) -> dict[str, Any]:
    """Values for the options without a default."""
    found: dict[str, Any] = {}
    for name, field in plugin.Spec.model_fields.items():
        if field.is_required():
            for value in CANDIDATES:
                try:
                    plugin.Spec(**{name: value})
                except ValidationError as error:
                    if any(e["loc"] == (name,) or e["loc"][:1] == (name,) for e in error.errors()):
                        continue
                found[name] = value
                break
    return found


def variants(plugin: type[Plugin]) -> Iterator[dict[str, Any]]:
    """Options: the defaults, the ends of the search space, and other values for each option in turn."""
    base = required(plugin)
    yield base
    for name, (kind, *values) in plugin.space.items():
        assert kind in ("log", "uniform", "choice"), f"{name}: {kind}"
        for value in values:
            yield base | {name: value}
    for name in plugin.Spec.model_fields:
        for value in CANDIDATES:
            try:
                plugin.Spec(**(base | {name: value}))
            except ValidationError:
                continue
            yield base | {name: value}


@each_plugin
def test_card_is_complete(entry: Entry) -> None:
    plugin = entry.load()
    card = plugin.card
    assert (card.name, card.kind, card.summary) == (entry.name, entry.kind, entry.summary)
    assert card.name.isidentifier() and card.name == card.name.lower()
    assert 10 < len(card.summary) < 100 and not card.summary.endswith(".")
    assert card.paper and card.defaults
    assert isinstance(card.deviations, tuple) and all(isinstance(d, str) for d in card.deviations)
    assert isinstance(card.needs, frozenset) and isinstance(card.conflicts, frozenset)
    if card.kind in ("objective", "retain"):
        assert card.formula
    assert plugin.__doc__
    undescribed = [n for n, f in plugin.Spec.model_fields.items() if not f.description]
    assert not undescribed, f"options without a description: {undescribed}"


@each_plugin
def test_card_names_exist(entry: Entry) -> None:
    """Conflicts are plug-ins, the search space has only options, and needs are words somebody reads."""
    plugin = entry.load()
    assert plugin.card.conflicts <= registry.entries().keys()
    assert plugin.space.keys() <= plugin.Spec.model_fields.keys()
    assert plugin.card.needs <= set(NEEDS) and plugin.card.model_needs <= set(MODEL_NEEDS)


CALLS = {"generate": r"\.(generate|decoded)\(", "hidden": r"\.hidden\(", "blocks": r"\.blocks\b(?!\()",
         "prompt": r"_lib\.wording import|\brewriting\(", "logp": r"\.logp_N", "distribution": r"\.logits_NV"}
"""What a plug-in's file calls -> what its card must then say it needs of the model."""


@each_plugin
def test_what_it_calls_of_the_model_stands_on_its_card(entry: Entry) -> None:
    plugin = entry.load()
    text = Path(inspect.getfile(plugin)).read_text(encoding="utf-8")
    called = {need for need, pattern in CALLS.items() if re.search(pattern, text)}
    told = plugin.card.model_needs | ({"blocks"} if "hidden" in plugin.card.model_needs else set())  # hidden: of blocks
    assert called <= told, f"{sorted(called - told)} is missing"


@each_plugin
def test_spec_round_trip(entry: Entry) -> None:
    """spec -> dict -> spec and spec -> text -> spec, for the defaults and many other values."""
    plugin = entry.load()
    for options in variants(plugin):
        made = plugin(**options)
        assert plugin.parse(made.spec.model_dump()) == made.spec
        ((call,),) = parse_sum(made.text())
        assert call.name == entry.name
        assert registry.load(call.name)(**dict(call.options)).spec == made.spec, made.text()


@each_plugin
def test_spec_is_frozen(entry: Entry) -> None:
    plugin = entry.load()
    made = plugin(**required(plugin))
    for name in plugin.Spec.model_fields:
        with pytest.raises(ValidationError):
            setattr(made.spec, name, 1)


@each_plugin
def test_wrong_options_are_refused(entry: Entry) -> None:
    plugin = entry.load()
    for name in plugin.Spec.model_fields:
        with pytest.raises(UsageError) as refused:
            plugin(**{f"{name}x": 1})
        assert name in refused.value.why and f"{name}x" in refused.value.what
        with pytest.raises(UsageError, match=name):
            plugin(**(required(plugin) | {name: object()}))
    with pytest.raises(UsageError, match="nonsense"):
        plugin(nonsense=1)


@each_plugin
def test_file_is_short(entry: Entry) -> None:
    source = Path(inspect.getfile(entry.load())).read_text(encoding="utf-8")
    assert len(source.splitlines()) <= 150


@each_plugin
def test_promises_something(entry: Entry) -> None:
    promised = entry.load().must_show
    assert promised, f"{entry.name} has no must_show"
    assert all(isinstance(p, Property) and p.why for p in promised)
    unknown = [p.check for p in promised if p.check not in CHECKS]
    assert not unknown, f"{entry.name} promises what nobody checks: {unknown}"


@each_plugin
def test_attacks_keep_the_contract(entry: Entry) -> None:
    """Every attack promises it, and to be nothing at strength 0 and to find nothing in a retrained model."""
    if entry.kind == "attack":
        promised = {p.check for p in entry.load().must_show}
        assert {"keeps_the_contract", "leaves_no_trace", "finds_nothing"} <= promised
        assert promised & {"recovers", "still_shows"}


@each_plugin
def test_unbounded_is_shown(entry: Entry) -> None:
    """A loss without a lower bound says so on its card and shows it, since that is what sets the ceiling."""
    plugin = entry.load()
    assert plugin.card.unbounded == any(p.check == "grows_without_bound" for p in plugin.must_show)


@pytest.mark.parametrize(("entry", "promise"), PROMISES)
def test_keeps_promise(entry: Entry, promise: Property, original: CausalLM) -> None:
    CHECKS[promise.check](entry.load(), **promise.args)


def test_no_idle_check() -> None:
    promised = {p.check for e in [*ENTRIES, *registry.of_kind("metric")] for p in e.load().must_show}
    assert CHECKS.keys() <= promised, f"checks that no card asks for: {CHECKS.keys() - promised}"
