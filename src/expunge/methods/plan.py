"""Preflight: everything that can be known before weights are loaded, with all problems at once."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence
from typing import Any

from expunge import processes
from expunge.console import Reporter
from expunge.data.duplicates import count_rows
from expunge.data.encoder import Encoder
from expunge.data.model_config import depth_of
from expunge.errors import ExpungeError, PreflightError, UsageError
from expunge.methods._lib.fact_edit import FactEdit
from expunge.methods._lib.weighing import WeighingSampler
from expunge.methods.base import Exact, Objective, Optimizer
from expunge.methods.recipe import Stage, training_stage
from expunge.methods.teaching import is_guard, takes_guard_off, teaching_problems
from expunge.models.load import empty_subject, made_by, subject_class
from expunge.models.reference import ReferenceKind
from expunge.needs import NEED_TEXTS, RowNeed, unmet
from expunge.plugin import Plugin
from expunge.records.base import Record
from expunge.records.overview import Overview
from expunge.records.prompt import PromptFormat
from expunge.records.settings import LoopSettings, RunSettings, TrainSettings
from expunge.records.task import Example, Task
from expunge.training.recomputing import cannot_recompute, without_checkpointing
from expunge.training.schedule import steps_in
from expunge.training.stopping import StopRule


class Plan(Record):
    """What a run will do: printed by --dry-run, and executed as it stands."""

    recipe: str
    stages: tuple[dict[str, dict[str, Any]], ...]
    steps: tuple[int, ...]
    """Optimizer steps per stage; 0 for one that takes none of its own."""
    eval_every: tuple[int, ...]
    """Per stage, steps between readings of the monitor."""
    rows: dict[str, int]
    reference: tuple[ReferenceKind, ...]
    """Per stage, how the original's outputs will be served."""
    prompt: PromptFormat
    """How a question becomes what the model reads, with the first row as it reads it."""
    repeated: dict[str, int] = {}
    """Set -> rows that repeat an earlier one; and `near_duplicates`: forget rows that retain rows nearly repeat."""
    empty_answers: int = 0
    truncated: int = 0
    """Rows that --max-length cuts."""
    notes: tuple[str, ...] = ()

    def overview(self) -> Overview:
        """What the run would do."""
        return Overview(f"Plan of {self.recipe}", [
            ("steps", self.steps), ("rows", ", ".join(f"{n} {side}" for side, n in self.rows.items())),
            ("reference", self.reference), ("rows cut", self.truncated or None),
            *(("note", note) for note in self.notes)])


def training_sides(task: Task, settings: LoopSettings) -> dict[str, tuple[Example, ...]]:
    """The rows a run draws from, by side."""
    if isinstance(settings, TrainSettings):
        return {"forget": (), "retain": task.training_rows(settings.split)}
    return {"forget": task.forget, "retain": task.retain}


def make_plan(recipe: str, stages: Sequence[Stage], task: Task, encoder: Encoder, settings: LoopSettings, *,
              truncated: int = 0, notes: tuple[str, ...] = ()) -> Plan:
    """What follows from recipe, rows and settings; checks nothing (see `preflight`)."""
    sides = training_sides(task, settings)
    steps, eval_every = [], []
    for stage in stages:
        if not stage.takes_steps:
            steps.append(0)
            eval_every.append(0)
            continue
        draws = stage.sampler.order(stage.sides(task, **sides), 0, settings.seed)
        epoch = steps_in(len(draws), settings.batch_size * settings.accumulate, stage.repeats)
        steps.append(stage.total_steps(settings, epoch))
        eval_every.append(settings.steps_between_readings(steps[-1], epoch))
    counts = count_rows(task)
    notes += tuple(note for s in stages if s.federated is not None for note in s.federated.notes(task))
    return Plan(
        recipe=recipe, stages=tuple(s.full() for s in stages), steps=tuple(steps), eval_every=tuple(eval_every),
        rows={"forget": len(task.forget), "retain": len(task.retain), "holdout": len(task.holdout),
              "neighbour": len(task.neighbour), "utility": len(task.utility)},
        repeated=counts.duplicates | {"near_duplicates": len(counts.near)}, empty_answers=counts.empty,
        reference=tuple(s.reference for s in stages), prompt=encoder.describe((*sides["forget"], *sides["retain"])),
        truncated=truncated, notes=(*task.notes, *counts.notes(), *notes))


def announce(plan: Plan, reporter: Reporter, max_length: int | None) -> None:
    """Say how rows are read, and everything about the plan that a reader of its figures should know."""
    reporter.detail(*plan.prompt.lines)
    reporter.note(*plan.notes)
    for warning in plan.prompt.warnings:
        reporter.warn(warning)
    if plan.truncated:
        reporter.warn(f"{plan.truncated} rows are cut to --max-length {max_length}.")


def stop_rule(stage: Stage, settings: TrainSettings | RunSettings, target: float | None, outcomes: int) -> StopRule:
    """The stopping rule of a stage: unbounded objectives get a ceiling, whatever was asked."""
    if isinstance(settings, TrainSettings) or (stage.objective is not None and not stage.objective.forgets):
        return StopRule(keep="last", utility_floor=0.0)
    unbounded = stage.objective is not None and stage.objective.unbounded
    return StopRule(
        forget_target=target, stop_at_target=settings.stop_at_target, stop_at_floor=settings.stop_at_floor,
        utility_floor=settings.utility_floor, keep=settings.keep,
        forget_ceiling=math.log(outcomes) if unbounded else None,
    )


NOTHING_KEPT = ("There are no retain rows: nothing is kept on purpose, and --utility-floor has nothing to watch. "
                "Give --retain FILE; without one, retain_replay keeps what the model writes itself.")


def nothing_kept(task: Task, settings: RunSettings) -> bool:
    """Whether the utility floor is asked for and no row can tell of it: the monitor would read 1 at every step."""
    return not (task.retain or task.background) and settings.utility_floor > 0


MET: dict[RowNeed, Callable[[Task], bool]] = {
    "retain": lambda t: bool(t.retain),
    "holdout": lambda t: bool(t.holdout),
    "questions": lambda t: any(r.asks for r in t.forget),
    "paraphrases": lambda t: all(r.paraphrased_answers for r in t.forget),
    "wrong_answers": lambda t: all(r.wrong_answers for r in t.forget),
}
"""Whether a task brings what a plug-in needs of its rows."""


def preflight(recipe: str, stages: tuple[Stage, ...], task: Task, encoder: Encoder, config: Any,
              settings: RunSettings) -> Plan:
    """Check the plan against task, tokenizer and model config.

    Raises:
        PreflightError: with every problem found (exit code 3).
    """
    problems: list[ExpungeError] = []
    wrapped, offered = [made_by(config)], subject_class(config).offers(config)
    for number, stage in enumerate(stages):
        if is_guard(wrapped[-1]) and takes_guard_off(stages, number):
            wrapped.append("")
        else:
            problems += _wrapped_problems(stage, wrapped[-1])
            wrapped.append(stage.wrap.card.name if stage.wrap is not None else wrapped[-1])
        problems += teaching_problems(stages, number, wrapped)
        lacking = [UsageError(f"{plugin.card.name} {NEED_TEXTS[need].why}.",
                              fix=plugin.fixes.get(need, NEED_TEXTS[need].fix))
                   for plugin in stage.plugins for need in unmet(plugin.model_needs, offered)[:1]]
        problems += lacking
        for plugin in stage.plugins:
            for need in sorted(n for n in MET if n in plugin.card.needs and not MET[n](task)):
                problems.append(UsageError(f"{plugin.card.name} {NEED_TEXTS[need].why}.", fix=NEED_TEXTS[need].fix))
            if getattr(plugin.spec, "refusals", None) == "off":
                problems.append(UsageError(f"{plugin.card.name} needs alternative answers, and their builder is off.",
                                           fix="Leave refusals= out for ours, or name a file of your own."))
        for source in (stage.edit, stage.objective):
            problems += source.problems(task) if source is not None else []
        if stage.wrap is not None:
            problems += stage.wrap.problems(task, config)
        if stage.federated is not None:
            problems += stage.federated.problems(stage, task, config)
        problems += _process_problems(stage)
        problems += _pass_problems(stage)
        problems += _stop_problems(stage)
        problems += _weighing_problems(stage)
        problems += [without_checkpointing(p.card.name) for p in stage.perturb
                     if settings.gradient_checkpointing and p.inside]
        problems += [UsageError(f"{p.card.name} reads retain rows, and the recipe has no retain term.",
                                fix="Add one, such as retain_nll, or leave that option out.")
                     for p in stage.perturb if p.asks_retain and not stage.reads_retain]
        problems += _idle_problems(stage)
        problems += _estimate_problems(stage)
        depth = depth_of(config)
        problems += _depth_problems(stage, depth)
        problems += [] if lacking else _part_problems(stage, encoder, config)
    if settings.gradient_checkpointing and any(stage.takes_steps for stage in stages):
        with contextlib.suppress(Exception):  # a family that cannot be built without weights is checked with them
            problems += cannot_recompute(empty_subject(config, encoder))
    rows = [encoder.encode(r) for r in task.forget + task.retain]
    problems += encoder.check(rows, config, "forget and retain")
    # The monitor reads these too, and without retain rows it reads the background's.
    watched = [encoder.encode(r) for r in task.holdout + (() if task.retain else task.background)]
    problems += encoder.check(watched, config, "holdout" if task.retain else "holdout and background")
    rows += watched
    if problems:
        raise PreflightError(problems)
    notes = tuple(
        f"{s.objective.card.name} has no lower bound: it stops at a forget loss of log(number of tokens or classes)."
        for s in stages if s.objective is not None and s.objective.unbounded
    )
    notes += tuple(note for s in stages for note in s.notes)
    notes += (NOTHING_KEPT,) if nothing_kept(task, settings) else ()
    notes += tuple(f"{s.trim.card.name} trims what every {s.trim.window} steps changed; readings are taken then only."
                   for s in stages if s.trim is not None and not s.trim.idle and s.takes_steps)
    notes += tuple("Rows made during training: the reference is asked live." for s in stages
                   if s.rolls_out and s.reference != "none needed")
    texts = sum(r.kind == "text" for r in task.forget)
    if texts and any("questions" in s.needs for s in stages):
        notes += (f"{texts} of {len(task.forget)} forget rows are running text; their refusal has no question.",)
    return make_plan(recipe, stages, task, encoder, settings, truncated=sum(r.truncated for r in rows), notes=notes)


def _wrapped_problems(stage: Stage, wrapped: str) -> list[ExpungeError]:
    """A guarded model or an ensemble is finished: a method would change parts of it that belong together."""
    source = stage.objective or stage.edit or stage.wrap
    if not wrapped or source is None or (isinstance(stage.wrap, Exact) and wrapped == stage.wrap.card.name):
        return []
    return [UsageError(f"{source.card.name} cannot start from a model that {wrapped} has made.",
                       "Its parts share weights, and a ledger or an assistant describes them as they are.",
                       f"Name the model {wrapped} was made from, with all rows to be forgotten; or put "
                       f"{wrapped} last in the recipe.")]


def _process_problems(stage: Stage) -> list[ExpungeError]:
    """Only the loop knows how to share its work; the others would each do all of it, in the same folder."""
    source: Plugin | None = next(iter(stage.builders.values()), stage.objective or stage.edit or stage.wrap)
    if processes.count() == 1 or source is None or (stage.objective is not None and not stage.builders):
        return []
    why = "builds rows or targets before its first step" if stage.objective else "takes no steps that could be shared"
    return [UsageError(f"{source.card.name} {why}: it works in one process, and {processes.count()} were started.",
                       fix="Start it without a launcher.")]


def _pass_problems(stage: Stage) -> list[ExpungeError]:
    """A perturbation that reads passes of forget rows, where other rows run as well or other processes have some."""
    problems: list[ExpungeError] = []
    source = stage.objective
    if source is None:
        return problems
    makes_rows = type(source).sides is not Objective.sides or source.rolls_out
    busy = [p for p in stage.perturb if not p.idle]
    for place, name in enumerate(p.card.name for p in busy):
        if not busy[place].forget_passes_only:
            continue
        if place + 1 < len(busy):
            problems.append(UsageError(
                f"{name} has to be named after {busy[-1].card.name}.",
                "Perturbations act inside those named before them, and its passes would be counted as well.",
                f"Name {name} as the last perturbation."))
        if makes_rows and set(source.reads) != {"forget"}:
            problems.append(UsageError(
                f"{name} cannot be combined with {source.card.name}.",
                f"It reads what happens in passes of forget rows, and {source.card.name} runs the model on other rows.",
                "Leave it out, or take an objective such as npo or cir."))
        if processes.count() > 1:
            problems.append(UsageError(
                f"{name} works in one process, and {processes.count()} were started.",
                "It rebuilds gradients from the tokens of its own process.", "Start it without a launcher."))
    return problems


def _stop_problems(stage: Stage) -> list[ExpungeError]:
    """A rule for forget rows where none is read, or where a process sees only its share of them."""
    if stage.stop is None or stage.objective is None:
        return []
    name, source = stage.stop.card.name, stage.objective.card.name
    if not stage.objective.forgets or "forget" not in stage.objective.reads:
        return [UsageError(f"{name} cannot be combined with {source}.",
                           f"It looks at the answers of forget rows, and {source} reads none of them.",
                           "Leave it out, or take an objective such as npo.")]
    return [UsageError(f"{name} works in one process, and {processes.count()} were started.",
                       "It follows the losses of all rows, and each process sees only its own.",
                       "Start it without a launcher.")] if processes.count() > 1 else []


def _weighing_problems(stage: Stage) -> list[ExpungeError]:
    """A sampler that weighs forget rows where the objective draws others."""
    source = stage.objective
    if not isinstance(stage.sampler, WeighingSampler) or source is None or type(source).rows is Objective.rows:
        return []
    name = stage.sampler.card.name
    return [UsageError(f"{name} cannot be combined with {source.card.name}.",
                       f"It weighs forget rows, and {source.card.name} draws others.",
                       "Leave it out, or take an objective such as npo.")]


def _idle_problems(stage: Stage) -> list[ExpungeError]:
    """Modifiers of a training loop on a source that has none."""
    if stage.objective is not None:
        return []
    source = stage.edit or stage.wrap
    usual = {p.text() for p in training_stage().plugins} - {"retain_nll"}
    used: tuple[Plugin, ...] = stage.edit.beside if isinstance(stage.edit, FactEdit) else ()
    if stage.federated is not None:  # rounds after the edit train
        used += (stage.federated, stage.optimizer)
    idle = [p.card.name for p in stage.plugins if p is not source and p not in used and p.text() not in usual]
    return [UsageError(f"{source.card.name} takes no steps of its own, so {' and '.join(idle)} would do nothing.",
                       "--lr is an option of the optimizer." if stage.optimizer.card.name in idle else "",
                       f"Leave them out, or make them a stage of their own with >>; `expunge explain "
                       f"{source.card.name}` shows its own options.")] if source and idle else []


def _estimate_problems(stage: Stage) -> list[ExpungeError]:
    """Objectives whose value does not tell an optimizer without backpropagation where to go."""
    source, optimizer = stage.objective, stage.optimizer
    if source is None or type(optimizer).probing is Optimizer.probing:
        return []
    problems: list[ExpungeError] = [
        UsageError(f"{p.card.name} cannot be combined with {optimizer.card.name}.",
                   f"{p.card.name} backpropagates, which {optimizer.card.name} is there to avoid.",
                   "Take an optimizer with backpropagation, or another perturbation such as sam.")
        for p in stage.perturb if p.backpropagates]
    if source.value_is_loss:
        return problems
    return [*problems, UsageError(f"{source.card.name} cannot be combined with {optimizer.card.name}.",
                       f"{optimizer.card.name} follows differences of the loss, and the gradient of "
                       f"{source.card.name} is not that of its value.",
                       "Take an optimizer with backpropagation, or an objective such as npo.")]


def _depth_problems(stage: Stage, depth: int | None) -> list[ExpungeError]:
    """Layers that the model does not have."""
    if depth is None:
        return []
    problems: list[ExpungeError] = []
    for plugin in stage.plugins:
        for option in plugin.blocks_in:
            named = getattr(plugin.spec, option, None)
            for block in named if isinstance(named, list) else [named]:
                if isinstance(block, int) and not 0 <= block < depth:
                    problems.append(UsageError(f"{plugin.card.name}({option}={block}): the model has no such block.",
                                            f"It has {depth}, numbered 0 to {depth - 1}.", "Name one of these."))
    return problems


def _part_problems(stage: Stage, encoder: Encoder, config: Any) -> list[ExpungeError]:
    """Blocks, modules and other parts that the model does not have, found on a copy without weights."""
    # A family that cannot be built this way, or a scope that needs weights, is checked when they are there.
    with contextlib.suppress(Exception):
        empty = empty_subject(config, encoder)
        try:
            for plugin in stage.plugins:
                plugin.check_model(empty)
            if not stage.scope.reads:
                stage.scope.apply(empty)
        except UsageError as error:
            return [error]
    return []
