"""The verbs: train, forget, audit. The command line calls exactly these."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, overload

from expunge import processes
from expunge.auditing import audit, score_again, task_of
from expunge.benchmarks.loading import as_task
from expunge.console import Reporter, default_reporter
from expunge.data.encoder import Encoder
from expunge.data.model_config import depth_of
from expunge.errors import ExpungeError, PreflightError, UsageError
from expunge.exact.deletion import trained_on_task
from expunge.methods.base import Exact
from expunge.methods.plan import Plan, announce, make_plan, preflight
from expunge.methods.recipe import Stage, parse, trainer_stage
from expunge.models.checks import check_model
from expunge.models.load import config_from, load_encoder, load_subject, resolve
from expunge.models.places import check_place
from expunge.models.sizes import SIZES, is_fresh
from expunge.models.subject import Subject
from expunge.models.tiny import build_for, epochs_from_scratch
from expunge.output import refuse_output
from expunge.presets import chosen
from expunge.records.choice import AUTO, AutoSettings
from expunge.records.run import RunRecord
from expunge.records.settings import RunSettings, TrainSettings, documented
from expunge.records.task import Task
from expunge.runs import execute, make_record
from expunge.training.loop import OnStep
from expunge.training.recomputing import cannot_recompute
from expunge.watching import Track, check_trackers

AnySettings = TypeVar("AnySettings", TrainSettings, RunSettings)


def _resolved(settings: AnySettings, task: Task, **values: Any) -> AnySettings:
    """The settings as they are carried out, which is what the record says."""
    return settings.model_copy(update={"template": task.template, "mixed_precision": processes.precision()} | values)


@overload
def train(model: str | Path, *, task: Task | str, out: str | Path, dry_run: Literal[True], **options: Any) -> Plan: ...


@overload
def train(
        model: str | Path, *, task: Task | str, out: str | Path, method: str | None = None,
        data_dir: str | Path | None = None, settings: TrainSettings | None = None, resume: bool = False,
        overwrite: bool = False, dry_run: Literal[False] = False, reporter: Reporter | None = None,
        on_step: OnStep | Sequence[OnStep] = (), track: Track = (), **options: Any) -> RunRecord: ...


@overload
def train(model: str | Path, *, task: Task | str, out: str | Path, dry_run: bool,
          **options: Any) -> RunRecord | Plan: ...


@documented(TrainSettings)
def train(
        model: str | Path, *, task: Task | str, out: str | Path, method: str | None = None,
        data_dir: str | Path | None = None, settings: TrainSettings | None = None, resume: bool = False,
        overwrite: bool = False, dry_run: bool = False, reporter: Reporter | None = None,
        on_step: OnStep | Sequence[OnStep] = (), track: Track = (), **options: Any) -> RunRecord | Plan:
    """Train a model on a task's rows: `full` makes an original, `retain` its retrained twin.

    Args:
        model: a model folder or hub name to fine-tune, or a config (JSON file or built-in size) to
            train from scratch; then the tokenizer is trained on all texts of the task, for both twins alike.
        task: a name, a run folder (its rows are meant) or a Task, such as `load_task(forget=...)` makes of files.
        out: folder of the run.
        method: "retain_nll", plain likelihood training, with modifiers such as "retain_nll + lora(rank=8)"; or an exact
            method such as "sisa(shards=3)", so that rows can be deleted later.
        data_dir: folder with the files of a published data set.
        settings: options of the run; those given by name come before its own.
        resume, overwrite, dry_run, reporter, on_step, track: as in `forget`.
        options: fields of `TrainSettings`.

    Returns:
        The record, also written to out/record.json; weights are in out/model. With dry_run the plan.
    """
    reporter, out, track = reporter or default_reporter(), Path(out), check_trackers(track)
    settings = TrainSettings.build(settings, **options)
    task = as_task(task, settings, data_dir=data_dir)
    scratch = is_fresh(model)
    if not scratch:
        check_place(model, SIZES)
    stage = trainer_stage(method or "retain_nll", settings.lr, 2e-3 if scratch else 1e-5)
    adapts = stage.scope.adapter or stage.scope.merged
    if scratch and (isinstance(stage.wrap, Exact) or adapts):
        raise UsageError(f"{method} needs a model to start from, and {model} is a config.",
                         "An adapter changes little of a model." if adapts else
                         "A tokenizer trained on the task's rows would keep what a deletion takes away.",
                         "Train or fetch a base on other rows first, and name its folder.")
    if isinstance(stage.wrap, Exact):
        processes.refuse_several(method or "")
    usual = epochs_from_scratch(config_from(model)) if scratch else 5
    settings = _resolved(settings, task, epochs=settings.epochs or usual)
    chosen = task.training_rows(settings.split)
    if not task.forget:
        raise UsageError(f"The task {task.name} has no forget rows.", "A run is watched by what it says of them.",
                         "Give --forget FILE, or forget=(Example(...), ...) of a Task.")
    if not chosen:
        raise UsageError(f"The task {task.name} has no rows for --split {settings.split}.", fix="Give --retain FILE.")
    if not dry_run:
        refuse_output(out, resume=resume, overwrite=overwrite, reads=[model])
    subject: Subject
    if scratch:
        subject = build_for(config_from(model), task, seed=settings.seed, max_length=settings.max_length)
    else:
        check_model(model, train=True)
        subject = load_subject(model, template=task.template, max_length=settings.max_length)
    rows = [subject.encoder.encode(r) for r in chosen]
    problems: list[ExpungeError] = [*subject.encoder.check(rows, subject.model.config, "training")]
    if settings.gradient_checkpointing:
        problems += cannot_recompute(subject)
    if isinstance(stage.wrap, Exact):
        problems += [*stage.wrap.training_problems(subject, chosen), *trained_on_task(model, task)]
    if stage.federated is not None:
        problems += stage.federated.problems(stage, task, subject.model.config, learns=True)
    if problems:
        raise PreflightError(problems)
    plan = make_plan(method or "retain_nll", (stage,), task, subject.encoder, settings,
                     truncated=sum(r.truncated for r in rows))
    if dry_run:
        return plan
    announce(plan, reporter, settings.max_length)
    record = make_record("train", (stage,), settings, model, subject, task, plan)
    return execute(plan, (stage,), subject, task, record, out, resume=resume, overwrite=overwrite, reporter=reporter,
                   on_step=on_step, track=track)


@overload
def forget(model: str | Path, *, out: str | Path, dry_run: Literal[True], **options: Any) -> Plan: ...


@overload
def forget(
        model: str | Path, *, out: str | Path, method: str | None = None, preset: str | None = None,
        task: Task | str | None = None, forget: str | Path | None = None, retain: str | Path | None = None,
        holdout: str | Path | None = None, mapping: Mapping[str, str] | str | None = None,
        data_dir: str | Path | None = None, settings: RunSettings | None = None, resume: bool = False,
        overwrite: bool = False, dry_run: Literal[False] = False, reporter: Reporter | None = None,
        on_step: OnStep | Sequence[OnStep] = (), track: Track = (), **options: Any) -> RunRecord: ...


@overload
def forget(model: str | Path, *, out: str | Path, dry_run: bool, **options: Any) -> RunRecord | Plan: ...


@documented(RunSettings)
def forget(
        model: str | Path, *, out: str | Path, method: str | None = None, preset: str | None = None,
        task: Task | str | None = None, forget: str | Path | None = None, retain: str | Path | None = None,
        holdout: str | Path | None = None, mapping: Mapping[str, str] | str | None = None,
        data_dir: str | Path | None = None, settings: RunSettings | None = None, resume: bool = False,
        overwrite: bool = False, dry_run: bool = False, reporter: Reporter | None = None,
        on_step: OnStep | Sequence[OnStep] = (), track: Track = (), **options: Any) -> RunRecord | Plan:
    """Make a model forget rows of a task by a recipe.

    Args:
        model: a run folder, model folder or hub name.
        method: a recipe such as "npo(beta=0.1) + retain_kl + lora(rank=8)"; or "auto", which searches one (options
            of `AutoSettings` are given by name too, and out/auto/choice.json says what was tried).
        preset: a published setting in place of a recipe, such as "npo/tofu-forget10" (see `expunge.presets`); options
            given here come before its own.
        out: folder of the run.
        task: a name, a run folder (its rows are meant) or a Task; or give files.
        forget, retain, holdout: files of rows to forget, to keep, and that no model was trained on.
        mapping: our field names -> the file's, or as --map has them.
        data_dir: folder with the files of a published data set.
        settings: options of the run; those given by name come before its own.
        resume: go on with a run that was interrupted.
        overwrite: replace `out`, if it is a folder of expunge's.
        dry_run: check everything and return the plan; nothing is written.
        reporter: where progress is shown; in a notebook and on a terminal by default.
        on_step: called with the log line of every step, as steps.jsonl has it: one function, or several.
        track: trackers that get the figures of every step and the settings: tensorboard, wandb, trackio ...
        options: fields of `RunSettings`.

    Returns:
        The record (out/record.json), or with dry_run the plan.

    Raises:
        PreflightError: the plan cannot work; every problem is listed and nothing was run.
    """
    reporter, out, track = reporter or default_reporter(), Path(out), check_trackers(track)
    if method == AUTO:
        from expunge.auto.verb import forget_auto, plan_auto  # it calls this verb for every trial

        auto = AutoSettings(**{k: options.pop(k) for k in AutoSettings.model_fields if k in options})
        settings = RunSettings.build(settings, **options)
        task = as_task(task, settings, forget=forget, retain=retain, holdout=holdout, mapping=mapping,
                       data_dir=data_dir)
        settings = _resolved(settings, task)
        check_model(model, train=True)
        return plan_auto(model, task, settings, auto) if dry_run else forget_auto(
            model, task, out, settings=settings, auto=auto, resume=resume, overwrite=overwrite, reporter=reporter)
    setting = None
    if preset is not None:
        setting, settings = chosen(preset, method, settings, options)
        method, task = setting.recipe, task if task is not None or forget is not None else setting.task
    elif method is None:
        raise UsageError("What should be done was not said.", "A run needs a recipe or a published setting.",
                         'Give --method, such as "npo + retain_kl", or --preset; `expunge presets` lists these.')
    else:
        settings = RunSettings.build(settings, **options)
    parse(method)  # before rows are read; the model's depth comes below
    if not dry_run:
        refuse_output(out, resume=resume, overwrite=overwrite, reads=[model])
    task = as_task(task, settings, forget=forget, retain=retain, holdout=holdout, mapping=mapping, data_dir=data_dir)
    settings = _resolved(settings, task)
    config = check_model(model, train=True)
    encoder = load_encoder(resolve(model), config, task.template, settings.max_length)
    stages, plan = _planned(method, task, encoder, config, settings)
    if setting is not None:
        plan = plan.model_copy(update={"notes": (setting.about, *plan.notes)})
    if dry_run:
        return plan
    announce(plan, reporter, settings.max_length)
    subject = load_subject(model, template=task.template, max_length=settings.max_length)
    if settings.stop_at_target and settings.forget_target is None and not task.holdout:
        raise UsageError("--stop-at-target has no target to stop at.", "The task has no holdout rows to read it from.",
                         "Give --forget-target, or holdout rows.")
    record = make_record("forget", stages, settings, model, subject, task, plan)
    return execute(plan, stages, subject, task, record, out, resume=resume, overwrite=overwrite, reporter=reporter,
                   on_step=on_step, track=track)


def _planned(method: str, task: Task, encoder: Encoder, config: Any,
             settings: RunSettings) -> tuple[tuple[Stage, ...], Plan]:
    """The stages of a recipe and their plan, after preflight."""
    stages = parse(method, depth_of(config) or 4)
    steps_of_its_own = any(s.objective for s in stages)
    # Where nothing takes steps --lr is still set, so that preflight says it would do nothing.
    stages = tuple(s.with_learning_rate(settings.lr) if s.objective or not steps_of_its_own else s for s in stages)
    return stages, preflight(method, stages, task, encoder, config, settings)


def plan_untrained(size: str | Path, *, method: str, task: Task, **options: Any) -> Plan:
    """The plan of `forget` for a model that is not trained yet: a recipe that cannot run is refused before training.

    Args:
        size: a built-in size or a config file.
        options: fields of `RunSettings`.

    Raises:
        UsageError, PreflightError: what `forget` would refuse.
    """
    settings = _resolved(RunSettings.build(None, **options), task)
    parse(method)  # before a tokenizer is made
    empty = build_for(config_from(size), task, seed=settings.seed, max_length=settings.max_length)
    return _planned(method, task, empty.encoder, empty.model.config, settings)[1]


__all__ = ["as_task", "audit", "forget", "plan_untrained", "score_again", "task_of", "train"]
