"""What holds for every plug-in of every kind: its card, its options, and that its promises can be checked."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator
from typing import Any, get_args

import pytest
from pydantic import ValidationError

from expunge import registry
from expunge.errors import UsageError
from expunge.needs import MODEL_NEEDS, NEEDS
from expunge.plugin import Kind, Plugin, Property
from expunge.terms import parse_sum

from .base import CHECKS, invariant

EVERY: tuple[Kind, ...] = get_args(Kind)
CANDIDATES: tuple[Any, ...] = (0.25, 3, "1-2", "q_proj", 7.5, [0, 1], True, None, "answer", "cosine", 0.99, 1e-7)
"""Values to try on every option; those that an option accepts are used."""
ALWAYS_PROMISED: dict[Kind, tuple[frozenset[str], ...]] = {
    "attack": (frozenset({"keeps_the_contract"}), frozenset({"leaves_no_trace"}), frozenset({"finds_nothing"}),
               frozenset({"recovers", "still_shows"})),
    "scope": (frozenset({"scope_keeps_bits"}),),
    "perturb": (frozenset({"does_nothing"}), frozenset({"restores_weights"})),
    "optimizer": (frozenset({"learning_rate_curve"}),),
    "sampler": (frozenset({"ignores_global_random_state"}),),
}
"""Kind -> sets of checks; a plug-in of this kind promises at least one check of each set, with options of its own."""
CALLS = {"generate": r"\.(generate|decoded)\(", "hidden": r"\.hidden\(|\.at\(", "attention": r"\.attention\(",
         "blocks": r"\.blocks\b(?!\()",
         "prompt": r"_lib\.wording import|\brewriting\(", "logp": r"\.logp_N", "distribution": r"\.logits_NV"}
"""What the file of a plug-in calls -> what its card must then say it needs of the model."""


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
    for name, (_, *values) in plugin.space.items():
        for value in values:
            yield base | {name: value}
    for name in plugin.Spec.model_fields:
        for value in CANDIDATES:
            try:
                plugin.Spec(**(base | {name: value}))
            except ValidationError:
                continue
            yield base | {name: value}


@invariant(*EVERY)
def card_is_complete(plugin: type[Plugin]) -> None:
    """A name that a recipe can hold, one line of summary, a source, and a description of every option."""
    card = plugin.card
    fits = card.name and card.name == card.name.lower() and all(part.isidentifier() for part in card.name.split("."))
    assert fits, f"card.name is {card.name!r}: small letters, digits and _ only, as a recipe has it"
    size = len(card.summary)
    assert 10 < size < 100, f"card.summary has {size} characters, not 11 to 99: {card.summary}"
    assert not card.summary.endswith("."), f"card.summary ends with a full stop: {card.summary}"
    assert card.paper, "card.paper is empty"
    told = isinstance(card.deviations, tuple) and all(isinstance(d, str) for d in card.deviations)
    assert told, f"card.deviations is no tuple of texts: {card.deviations!r}"
    for name in ("needs", "model_needs", "conflicts"):
        value = getattr(card, name)
        assert isinstance(value, frozenset), f"card.{name} is a {type(value).__name__}, not a frozenset: {value!r}"
    if card.kind != "metric":  # whose formula says all
        assert card.defaults, "card.defaults is empty"
        assert plugin.__doc__, "the class has no docstring"
    if card.kind in ("objective", "retain", "metric"):
        assert card.formula, "card.formula is empty"
    undescribed = [n for n, f in plugin.Spec.model_fields.items() if not f.description]
    assert not undescribed, f"Spec has options without a description: {', '.join(undescribed)}"


@invariant(*EVERY)
def card_is_the_registrys(plugin: type[Plugin]) -> None:
    """Name, kind and summary are literals, so that the registry reads the same without running the file."""
    entry = registry.find(plugin.card.name)
    for name in ("name", "kind", "summary"):
        read, runs = getattr(entry, name), getattr(plugin.card, name)
        assert read == runs, f"card.{name} is {runs!r} when the file runs, and is read from it as {read!r}"


@invariant(*EVERY)
def card_names_exist(plugin: type[Plugin]) -> None:
    """Conflicts are plug-ins, the search space has only options, and needs are words that the code reads."""
    card = plugin.card
    for name, known in (("conflicts", registry.entries().keys()), ("needs", NEEDS), ("model_needs", MODEL_NEEDS)):
        unknown = sorted(getattr(card, name) - set(known))
        assert not unknown, f"card.{name} names what does not exist: {', '.join(unknown)}"


@invariant(*EVERY)
def space_is_valid(plugin: type[Plugin]) -> None:
    """The search space names options, and both ends of every range are values that the option takes."""
    others = sorted(plugin.space.keys() - plugin.Spec.model_fields.keys())
    assert not others, f"space names what is no option of Spec: {', '.join(others)}"
    for name, (kind, *values) in plugin.space.items():
        assert kind in ("log", "uniform", "choice"), f"space[{name!r}] is {kind!r}, not log, uniform or choice"
        ordered = kind == "choice" or (len(values) == 2 and values[0] < values[1])
        assert ordered, f"space[{name!r}] is not from a lower to a higher value: {values}"
        assert kind != "log" or values[0] > 0, f"space[{name!r}] has a logarithmic range from {values[0]}"
        for value in values:
            options: dict[str, Any] = required(plugin) | {name: value}
            try:
                plugin(**options)
            except UsageError as refused:
                raise AssertionError(f"space[{name!r}] holds {value!r}, which Spec refuses: {refused}") from refused


@invariant(*EVERY)
def model_needs_are_on_the_card(plugin: type[Plugin]) -> None:
    """What its source calls of the model is what its card says it needs of the model."""
    text = inspect.getsource(sys.modules[plugin.__module__])
    if text.count("card = ") > 1:  # a file of several plug-ins
        text = inspect.getsource(plugin)
    called = {need for need, pattern in CALLS.items() if re.search(pattern, text)}
    told = plugin.card.model_needs | ({"blocks"} if "hidden" in plugin.card.model_needs else set())  # hidden: of blocks
    missing = ", ".join(sorted(called - told))
    assert not missing, f"card.model_needs lacks what the code calls of the model: {missing}"


@invariant(*EVERY)
def spec_round_trip(plugin: type[Plugin]) -> None:
    """spec -> dict -> spec and spec -> text -> spec, for the defaults and many other values."""
    for options in variants(plugin):
        made = plugin(**options)
        again = plugin.parse(made.spec.model_dump())
        changed = [n for n in plugin.Spec.model_fields if getattr(again, n) != getattr(made.spec, n)]
        assert again == made.spec, f"Spec.{', Spec.'.join(changed)} is another after a round trip of {options}"
        ((call,),) = parse_sum(made.text())
        assert call.name == plugin.card.name
        assert registry.load(call.name)(**dict(call.options)).spec == made.spec, made.text()


@invariant(*EVERY)
def spec_is_frozen(plugin: type[Plugin]) -> None:
    """Options cannot be changed after the plug-in is made."""
    made = plugin(**required(plugin))
    for name in plugin.Spec.model_fields:
        try:
            setattr(made.spec, name, 1)
        except ValidationError:
            continue
        raise AssertionError(f"Spec.{name} can be changed after the plug-in is made: Spec is not frozen")


@invariant(*EVERY)
def wrong_options_are_refused(plugin: type[Plugin]) -> None:
    """An unknown option and an impossible value end in a message that names the option."""
    for name in plugin.Spec.model_fields:
        with pytest.raises(UsageError) as refused:
            misspelt: dict[str, Any] = {f"{name}x": 1}
            plugin(**misspelt)
        assert name in refused.value.why and f"{name}x" in refused.value.what
        impossible: dict[str, Any] = required(plugin) | {name: object()}
        try:
            plugin(**impossible)
        except UsageError as wrong:
            assert name in str(wrong), f"the message for a wrong value of Spec.{name} does not name it: {wrong}"
        else:
            raise AssertionError(f"Spec.{name} takes any value: give it a type")
    with pytest.raises(UsageError, match="nonsense"):
        plugin(nonsense=1)


@invariant(*EVERY)
def promises_are_checked(plugin: type[Plugin]) -> None:
    """It promises something, each promise has a reason, and there is a check for it."""
    assert plugin.must_show, f"{plugin.card.name} has no must_show"
    bare = [p for p in plugin.must_show if not isinstance(p, Property) or not (p.why or plugin.card.kind == "metric")]
    assert not bare, f"must_show holds what is no Property with a reason: {bare}"
    unknown = [p.check for p in plugin.must_show if p.check not in CHECKS]
    assert not unknown, f"must_show of {plugin.card.name} promises what no check covers: {', '.join(unknown)}"


@invariant(*EVERY)
def promises_what_its_kind_promises(plugin: type[Plugin]) -> None:
    """An attack promises to do nothing at strength 0, a scope to keep all other bits, and so on."""
    names = {p.check for p in plugin.must_show}
    missing = [sorted(some) for some in ALWAYS_PROMISED.get(plugin.card.kind, ()) if not some & names]
    assert not missing, f"must_show of {plugin.card.name} holds none of {missing}"


@invariant(*EVERY)
def unbounded_is_shown(plugin: type[Plugin]) -> None:
    """A loss without a lower bound says so on its card and shows it, since that is what sets the ceiling."""
    shown = any(p.check == "grows_without_bound" for p in plugin.must_show)
    assert plugin.card.unbounded == shown, (
        f"card.unbounded is {plugin.card.unbounded}, and must_show has {'a' if shown else 'no'} grows_without_bound")
