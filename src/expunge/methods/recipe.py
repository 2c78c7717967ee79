"""The recipe algebra: text -> stages of plug-ins, with presets and companions filled in."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from expunge.errors import UsageError
from expunge.methods._lib.fact_edit import FactEdit
from expunge.methods._lib.trimming import Trim
from expunge.methods._lib.value_descent import ValueTerm
from expunge.methods._lib.weighing import WeighingSampler
from expunge.methods.base import (
    Combine,
    Edit,
    Exact,
    Objective,
    Optimizer,
    Perturb,
    Preset,
    Retain,
    Sampler,
    ScopePlugin,
    Stop,
    TermPlugin,
    Wrap,
)
from expunge.methods.federated import Federated
from expunge.models.reference import ReferenceKind, choose_reference
from expunge.needs import ModelNeed, Need
from expunge.plugin import METHODS, RECIPE_KINDS, SINGLE, SOURCES, Plugin
from expunge.records.settings import LoopSettings
from expunge.records.task import Example, Task
from expunge.registry import find, load
from expunge.terms import Call, parse_sum

DEFAULTS = "weighted + adamw + all + paired"


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One source of forgetting (none when it only trains) and its modifiers."""

    objective: Objective | None = None
    edit: Edit | None = None
    wrap: Wrap | None = None
    """A guard, or exact retraining."""
    retain: tuple[Retain, ...] = ()
    perturb: tuple[Perturb, ...] = ()
    trim: Trim | None = None
    stop: Stop | None = None
    federated: Federated | None = None
    """Runs all the rest on clients."""
    combine: Combine
    optimizer: Optimizer
    scope: ScopePlugin
    sampler: Sampler
    notes: tuple[str, ...] = ()
    """Which terms were brought by others, and which replaced one that was."""

    @property
    def plugins(self) -> tuple[Plugin, ...]:
        """All of them, the source first."""
        source = tuple(p for p in (self.objective, self.edit, self.wrap) if p is not None)
        once = tuple(p for p in (self.trim, self.stop, self.federated) if p is not None)
        return (*source, *self.retain, *self.perturb, *once, self.combine, self.optimizer, self.scope, self.sampler)

    @property
    def needs(self) -> frozenset[Need]:
        """What all its plug-ins need together."""
        return frozenset[Need]().union(*(p.card.needs for p in self.plugins))

    @property
    def model_needs(self) -> frozenset[ModelNeed]:
        """What the model must offer to all its plug-ins together."""
        return frozenset[ModelNeed]().union(*(p.model_needs for p in self.plugins))

    @property
    def takes_steps(self) -> bool:
        """Whether the run's loop runs it; an edit, a guard and an exact method do their work themselves, and clients
        have loops of their own."""
        return self.federated is None and (self.objective is not None or (self.edit is None and self.wrap is None))

    @property
    def rolls_out(self) -> bool:
        """Whether rows are made from the current model before every step."""
        return self.objective is not None and self.objective.rolls_out

    @property
    def repeats(self) -> int:
        """Optimizer steps that are taken on the same rows, one after the other."""
        return max((p.repeats for p in self.perturb if not p.idle and self.objective is not None), default=1)

    @property
    def reference(self) -> ReferenceKind:
        """How the original's outputs are served."""
        own = self.objective is not None and self.objective.teacher is not None
        return choose_reference(self.needs, adapter=self.scope.adapter and not own, live=self.rolls_out)

    def sides(self, task: Task, forget: Sequence[Example], retain: Sequence[Example]) -> dict[str, Sequence[Example]]:
        """The rows its sampler draws from: those of a side that no term reads are left out."""
        own = self.objective.rows(task) if self.objective else ()
        return {"forget": forget if own is None else own, "retain": retain if self.reads_retain else ()}

    @property
    def reads_retain(self) -> bool:
        """Whether a term reads the retain rows of the task."""
        return not all(part.own_rows for part in self.retain)

    @property
    def builders(self) -> dict[str, TermPlugin | WeighingSampler]:
        """Terms and a sampler that compute data before the first step, by the name of the file that keeps it."""
        named = [*((("made", self.objective),) if self.objective else ()), *((p.card.name, p) for p in self.retain)]
        weighing = (self.sampler,) if isinstance(self.sampler, WeighingSampler) and self.objective else ()
        return {name: part for name, part in named if part.builds} | {p.card.name: p for p in weighing}

    def total_steps(self, settings: LoopSettings, steps_per_epoch: int) -> int:
        """Optimizer steps of its loop."""
        epochs = self.objective.epochs if self.objective else None
        return settings.total_steps(steps_per_epoch) if epochs is None else max(round(epochs * steps_per_epoch), 1)

    @property
    def kept_sides(self) -> set[str]:
        """Sides of whose rows a reference keeps what the original says; none where it is run again."""
        again = self.reference in ("adapter off", "frozen copy")
        asking = [p for p in self.plugins if any(need.startswith("reference.") for need in p.card.needs)]
        return set() if again else {side for p in asking for side in _asks(p)}

    @property
    def likeliest(self) -> tuple[int, set[str]]:
        """How many of the original's likeliest tokens are kept one by one, and on which sides; (0, none) by default."""
        asking = [p for p in self.plugins if "reference.likeliest" in p.card.needs]
        return max((p.spec.k for p in asking), default=0), {side for p in asking for side in _asks(p)}

    def full(self) -> dict[str, dict[str, Any]]:
        """Every term with every option, defaults included: for the record."""
        return {p.card.name: p.spec.model_dump() for p in self.plugins}

    def with_learning_rate(self, lr: float | None) -> Stage:
        """The same stage with another peak learning rate (the `--lr` option)."""
        if lr is None:
            return self
        optimizer = type(self.optimizer)(**(self.optimizer.spec.model_dump() | {"lr": lr}))
        return replace(self, optimizer=optimizer)


def _asks(plugin: Plugin) -> tuple[str, ...]:
    """Sides of whose rows a plug-in asks the reference."""
    found: tuple[str, ...] = getattr(plugin, "asks", getattr(plugin, "reads", ()))
    return found


def parse(text: str, depth: int = 4) -> tuple[Stage, ...]:
    """Stages of a recipe, for a model of `depth` blocks (some companions depend on it).

    Raises:
        UsageError: unknown names or options, two sources, or none.
    """
    stages = tuple(_stage(calls, depth, forgets=True) for calls in parse_sum(text))
    for stage in stages:
        if not (stage.objective or stage.edit or stage.wrap):
            raise UsageError(f"The recipe {text!r} has no source of forgetting.",
                             "A stage needs one objective, edit, guard or exact method; the rest modifies it.",
                             "`expunge ls methods` lists them.")
    return stages


def training_stage(text: str = "retain_nll") -> Stage:
    """A stage that only trains, for `expunge train` and relearning."""
    return _stage(parse_sum(text)[0], depth=1)


def trainer_stage(text: str, lr: float | None, usual: float) -> Stage:
    """A stage that trains an original, for `expunge train --method`: an exact method, or retain terms with modifiers.

    Args:
        lr: comes before what the recipe says.
        usual: learning rate of retain terms where neither says one.

    Raises:
        UsageError: the recipe forgets, asks a reference, or has several stages.
    """
    first, *more = [_stage(calls, depth=1) for calls in parse_sum(text)]
    source = first.objective or first.edit or first.wrap
    if first.federated is not None and not source and not first.retain:
        first = replace(first, retain=training_stage().retain)
    exact = first.federated is None and isinstance(first.wrap, Exact) and not first.retain
    trains = first.retain and not source and not any(need.startswith("reference.") for need in first.needs)
    if more or first.perturb or not (exact or trains):
        raise UsageError(f"{text!r} is no way to train an original: neither plain training nor one from which rows can "
                         "be deleted exactly.",
                         fix='Write "retain_nll + lora(rank=8)", or one exact method, such as sisa(shards=3); '
                             "`expunge ls exacts` lists them.")
    if isinstance(first.wrap, Exact):
        options = first.wrap.spec.model_dump() | ({} if lr is None else {"lr": lr})
        return replace(first, wrap=type(first.wrap)(**options))
    said = any("lr" in dict(call.options) for call in parse_sum(text)[0] if find(call.name).kind == "optimizer")
    return first.with_learning_rate(lr if lr is not None or said else usual)


def _stage(calls: Sequence[Call], depth: int, *, forgets: bool = False) -> Stage:
    named = list(_build(calls))
    presets = [p for p in named if isinstance(p, Preset)]
    plugins = [p for p in named if not isinstance(p, Preset)]
    groups: list[tuple[str, list[Plugin]]] = []
    for preset in presets:
        expanded = _build(parse_sum(preset.expands_to)[0])
        plugins += [p for p in expanded if p.card.kind in SOURCES]
        groups.append((preset.card.name, [p for p in expanded if p.card.kind not in SOURCES]))
    sources = [p for p in plugins if p.card.kind in SOURCES]
    if len(sources) > 1:
        names = " and ".join(p.card.name for p in sources)
        raise UsageError(f"A recipe has one source of forgetting, and this has {names}.",
                         fix="Join them as stages with >>, or drop one.")
    for plugin in sorted(plugins, key=lambda p: p.card.kind not in SOURCES):
        companions = plugin.companions(depth) if isinstance(plugin, Objective) else plugin.card.companions
        group = _build(parse_sum(companions)[0]) if companions else []
        # A modifier brings its own source only where something is to be forgotten and no source is named.
        groups.append((plugin.card.name, [p for p in group if p.card.kind not in SOURCES or (forgets and not sources)]))
    # A companion stays only when no other of its kind is named; of two that bring one, the source's stays.
    notes: list[str] = []
    for bringer, group in (*groups, ("", _build(parse_sum(DEFAULTS)[0]))):
        taken = {p.card.kind: p.card.name for p in plugins}
        plugins += [p for p in group if p.card.kind not in taken]
        notes += [f"{bringer} brings {p.text()}." if p.card.kind not in taken else
                  f"{taken[p.card.kind]} stands in for the {p.card.name} of {bringer}."
                  for p in group if bringer and taken.get(p.card.kind) != p.card.name]
    by_kind: dict[str, list[Any]] = {k: [p for p in plugins if p.card.kind == k] for k in RECIPE_KINDS}
    for kind in (*SINGLE, "trim", "stop", "federated"):
        if len(by_kind[kind]) > 1:
            raise UsageError(f"A stage has one {kind}, and this has "
                             f"{' and '.join(p.card.name for p in by_kind[kind])}.",
                             fix="Name one of them, or join two stages with >>.")
    _check_twice(plugins)
    retain = tuple(p for p in by_kind["retain"] if p.spec.weight > 0)
    edit = next(iter(by_kind["edit"] + by_kind["sequential"]), None)
    if isinstance(edit, FactEdit):
        edit.beside = tuple(p for p in retain if isinstance(p, ValueTerm))
    return Stage(
        objective=next((p for p in by_kind["objective"] if p.spec.weight > 0), None),
        edit=edit,
        wrap=next(iter(by_kind["guard"] + by_kind["exact"]), None),
        retain=retain,
        perturb=tuple(by_kind["perturb"]),
        trim=next(iter(by_kind["trim"]), None), stop=next(iter(by_kind["stop"]), None),
        federated=next(iter(by_kind["federated"]), None),
        combine=by_kind["combine"][0], optimizer=by_kind["optimizer"][0],
        scope=by_kind["scope"][0], sampler=by_kind["sampler"][0], notes=tuple(notes),
    )


def _build(calls: Iterable[Call]) -> list[Plugin]:
    return [load(call.name, *METHODS)(**dict(call.options)) for call in calls]


def _check_twice(plugins: Sequence[Plugin]) -> None:
    names = [p.card.name for p in plugins]
    for plugin in plugins:
        if names.count(plugin.card.name) > 1:
            raise UsageError(f"{plugin.card.name} stands twice in one stage.",
                             fix="Name it once, or join two stages with >>.")
        clash = sorted(plugin.card.conflicts & set(names))
        if clash:
            why = next((d for d in plugin.card.deviations if any(c in d for c in ("adapter", *clash))), "")
            raise UsageError(f"{plugin.card.name} cannot be combined with {' or '.join(clash)}.",
                             f"On its card: {why}." if why else "",
                             f"Leave one of them out; `expunge explain {plugin.card.name}` shows the whole card.")
