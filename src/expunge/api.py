"""The verbs: train, forget, audit. The command line calls exactly these."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from expunge import processes
from expunge.attacks.base import AttackContext
from expunge.audit.attacks import cannot_run
from expunge.audit.cache import ObservationCache
from expunge.audit.requirements import Offer, check_conditions
from expunge.audit.runner import Roles, asked_aside, ordered, run_audit
from expunge.audit.suite import parse_suite
from expunge.auditing import check_audited, check_formats, check_rows, check_same_audit, score_again, task_of
from expunge.benchmarks.loading import default_suite, load_task
from expunge.console import Reporter
from expunge.data.duplicates import count_rows
from expunge.data.model_config import depth_of
from expunge.data.tasks import limited, settle_overlap
from expunge.errors import ExpungeError, PreflightError, RequirementError, UsageError
from expunge.exact.deletion import trained_on_task
from expunge.methods.base import Exact
from expunge.methods.plan import Plan, announce, make_plan, preflight
from expunge.methods.recipe import exact_stage, parse, training_stage
from expunge.metrics.evaluate import available, required
from expunge.models.checks import check_model
from expunge.models.load import config_from, load_encoder, load_subject, resolve, subject_class
from expunge.models.places import check_place
from expunge.models.sizes import SIZES, is_fresh
from expunge.models.subject import Subject
from expunge.models.tiny import build_for, epochs_from_scratch
from expunge.output import prepare_output, refuse_output
from expunge.presets import chosen
from expunge.records.run import RunRecord
from expunge.records.score import Audit
from expunge.records.settings import AuditSettings, LoopSettings, RunSettings, TrainSettings
from expunge.records.task import Task
from expunge.runs import device, execute, make_record

AnySettings = TypeVar("AnySettings", TrainSettings, RunSettings)


def as_task(task: Task | str | None, settings: LoopSettings | AuditSettings, **files: Any) -> Task:
    """A given task, or what `load_task` makes of a name or of files; cut to the limit and with the template asked for.

    Rows that stand on two sides were refused when a given task was loaded; here they are only dropped, if asked for.
    """
    if not isinstance(task, Task):
        task = load_task(task, limit=settings.limit, on_overlap=settings.on_overlap, **files)
    else:
        task = settle_overlap(task, "drop" if settings.on_overlap == "drop" else "keep")
        cut = task if settings.limit is None else limited(task, settings.limit)
        # A task that is short enough keeps its name: the command line hands over tasks that are cut already.
        task = task if cut.fingerprints() == task.fingerprints() else cut
    return task if settings.template is None else task.model_copy(update={"template": settings.template})


def _resolved(settings: AnySettings, task: Task, **values: Any) -> AnySettings:
    """The settings as they are carried out, which is what the record says."""
    return settings.model_copy(update={"template": task.template, "mixed_precision": processes.precision()} | values)


def train(model: str | Path, *, task: Task | str, out: str | Path, method: str | None = None,
          data_dir: Path | None = None, settings: TrainSettings | None = None, resume: bool = False,
          overwrite: bool = False, dry_run: bool = False, reporter: Reporter | None = None,
          **options: Any) -> RunRecord | Plan:
    """Train a model on a task's rows: `full` makes an original, `retain` its retrained twin.

    Args:
        model: a model folder or hub name to fine-tune, or a config (JSON file or built-in size) to
            train from scratch; then the tokenizer is trained on all texts of the task, for both twins alike.
        method: an exact method such as "sisa(shards=3)", so that rows can be deleted later; plain
            likelihood training when left out.
        settings, options: `TrainSettings`, or its fields by name: split, epochs, steps, lr, batch_size ...

    Returns:
        The record, also written to out/record.json; weights are in out/model. With dry_run the plan.
    """
    reporter, out = reporter or Reporter(quiet=True), Path(out)
    settings = TrainSettings.build(settings, **options)
    task = as_task(task, settings, data_dir=data_dir)
    scratch = is_fresh(model)
    if not scratch:
        check_place(model, SIZES)
    if method and scratch:
        raise UsageError(f"{method} needs a model to start from, and {model} is a config.",
                         "A tokenizer trained on the task's rows would keep what a deletion takes away.",
                         "Train or fetch a base on other rows first, and name its folder.")
    if method:
        processes.refuse_several(method)
    stage = exact_stage(method, settings.lr) if method else training_stage().with_learning_rate(
        settings.lr if settings.lr is not None else (2e-3 if scratch else 1e-5))
    usual = epochs_from_scratch(config_from(model)) if scratch else 5
    settings = _resolved(settings, task, epochs=settings.epochs or usual)
    chosen = task.training_rows(settings.split)
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
    if isinstance(stage.wrap, Exact):
        problems += [*stage.wrap.training_problems(subject, chosen), *trained_on_task(model, task)]
    if problems:
        raise PreflightError(problems)
    plan = make_plan(method or "retain_nll", (stage,), task, subject.encoder, settings,
                     truncated=sum(r.truncated for r in rows))
    if dry_run:
        return plan
    announce(plan, reporter, settings.max_length)
    record = make_record("train", (stage,), settings, model, subject, task, plan)
    return execute(plan, (stage,), subject, task, record, out, resume=resume, overwrite=overwrite, reporter=reporter)


def forget(model: str | Path, *, out: str | Path, method: str | None = None, preset: str | None = None,
           task: Task | str | None = None,
           forget: Path | None = None, retain: Path | None = None, holdout: Path | None = None,
           mapping: dict[str, str] | str | None = None, data_dir: Path | None = None,
           settings: RunSettings | None = None, resume: bool = False, overwrite: bool = False, dry_run: bool = False,
           reporter: Reporter | None = None, **options: Any) -> RunRecord | Plan:
    """Make a model forget rows of a task by a recipe.

    Args:
        model: a run folder, model folder or hub name.
        method: a recipe such as "npo(beta=0.1) + retain_kl + lora(rank=8)".
        preset: a published setting in place of a recipe, such as "npo/tofu-forget10" (see `expunge.presets`); options
            given here come before its own.
        task: a name, a run folder (its rows are meant) or a Task; or give files as `forget`, `retain` and `holdout`.
        settings, options: `RunSettings`, or its fields by name: epochs, steps, lr, batch_size, keep, seed ...

    Returns:
        The record (out/record.json), or with dry_run the plan.

    Raises:
        PreflightError: the plan cannot work; every problem is listed and nothing was run.
    """
    reporter, out = reporter or Reporter(quiet=True), Path(out)
    setting = None
    if preset is not None:
        setting, settings = chosen(preset, method, settings, options)
        method, task = setting.recipe, task if task is not None or forget is not None else setting.task
    elif method is None:
        raise UsageError("What should be done was not said.", "A run needs a recipe or a preset.",
                         'Give --method, such as "npo + retain_kl", or --preset; `expunge presets` lists these.')
    else:
        settings = RunSettings.build(settings, **options)
    task = as_task(task, settings, forget=forget, retain=retain, holdout=holdout, mapping=mapping, data_dir=data_dir)
    settings = _resolved(settings, task)
    config = check_model(model, train=True)
    stages = parse(method, depth_of(config) or 4)
    steps_of_its_own = any(s.objective for s in stages)
    # Where nothing takes steps --lr is still set, so that preflight says it would do nothing.
    stages = tuple(s.with_learning_rate(settings.lr) if s.objective or not steps_of_its_own else s for s in stages)
    encoder = load_encoder(resolve(model), config, task.template, settings.max_length)
    plan = preflight(method, stages, task, encoder, config, settings)
    if setting is not None:
        plan = plan.model_copy(update={"notes": (setting.about, *plan.notes)})
    if dry_run:
        return plan
    announce(plan, reporter, settings.max_length)
    refuse_output(out, resume=resume, overwrite=overwrite, reads=[model])
    subject = load_subject(model, template=task.template, max_length=settings.max_length)
    if settings.stop_at_target and settings.forget_target is None and not task.holdout:
        raise UsageError("--stop-at-target has no target to stop at.", "The task has no holdout rows to read it from.",
                         "Give --forget-target, or holdout rows.")
    record = make_record("forget", stages, settings, model, subject, task, plan)
    return execute(plan, stages, subject, task, record, out, resume=resume, overwrite=overwrite, reporter=reporter)


def audit(subject: str | Path, *, out: str | Path | None = None, task: Task | str | None = None,
          forget: Path | str | None = None, retain: Path | str | None = None, holdout: Path | str | None = None,
          mapping: dict[str, str] | str | None = None, data_dir: Path | None = None,
          original: str | Path | None = None, retrained: str | Path | Sequence[str | Path] = (),
          require: Sequence[str] = (), settings: AuditSettings | None = None, resume: bool = False,
          overwrite: bool = False, dry_run: bool = False, reporter: Reporter | None = None,
          **options: Any) -> Audit | dict[str, Any]:
    """Ask a model what it still knows, beside the original and retrained models.

    Args:
        subject: a run folder, model folder or hub name. For a run, the model it started from is the
            original and its rows the rows, unless others are named.
        out: where audit.json and observations/ go; the run folder itself by default.
        retrained: models trained without the forget set; the first is the gold standard, the others
            show the noise floor.
        require: conditions on the result, such as "verdict=forgets" (see `records.requirement`). What cannot be had
            is refused before the work; `Audit.check` asks the same of a finished audit.
        settings, options: `AuditSettings`, or its fields by name: suite, seed, limit, max_length, resamples ...

    Returns:
        The audit, also written to out/audit.json; with dry_run the plan: terms, observations and attacks with costs.

    Raises:
        RequirementError: a condition does not hold; `error.audit` is the audit.
    """
    reporter = reporter or Reporter(quiet=True)
    processes.refuse_several("An audit")
    settings = AuditSettings.build(settings, **options)
    named = parse_suite(settings.suite) if settings.suite else None
    retrained = [retrained] if isinstance(retrained, str | Path) else list(retrained)
    made_by = Path(subject) / "record.json"
    record = RunRecord.read(made_by) if made_by.exists() else None
    folder = Path(out) if out is not None else (Path(subject) if record else None)
    if folder is None:
        raise UsageError("An audit of a plain model needs an output folder.", fix="Give --out DIR.")
    if record and original is None and record.kind == "forget":
        original = record.model
    if task is None and forget is None:
        task = task_of(subject)
    task = as_task(task, settings, forget=forget, retain=retain, holdout=holdout, mapping=mapping, data_dir=data_dir)
    asked = named or parse_suite(default_suite(task.name))
    settings = settings.model_copy(update={"template": task.template})
    models = [subject, *([original] if original else []), *retrained]
    configs = [check_model(m) for m in models]
    offered = subject_class(configs[0]).offers(configs[0])
    check_conditions(require, asked, Offer(task, original is not None, bool(retrained), frozenset(offered)))
    reporter.note(*(notes := (*task.notes, *count_rows(task).notes())))
    if dry_run:
        context = AttackContext.of(task)
        refused = {a.text(): cannot_run(a, context, original is not None, offered) for a in asked.attacks}
        fit = [a for a in asked.attacks if refused[a.text()] is None]
        asks = available([*asked.metrics, *(term for attack in fit for term in attack.asks)], offered)
        aside = asked_aside(asks) if fit and not retrained else set()
        wanted = ordered(required(asks) | aside, task)
        reads = load_encoder(resolve(subject), configs[0], task.template, settings.max_length)
        return {"terms": list(asked.metrics), "prompt": reads.describe(task.probe_rows("forget")).to_json(),
                "notes": list(notes), "observations": [
            f"{probe} on {len(task.probe_rows(split))} {split} rows" for probe, split in wanted],
            "attacks": {a.text(): f"cannot run: {refused[a.text()]}" if refused[a.text()] else a.cost(context)
                        for a in asked.attacks}}
    for caution in (other_rows := check_rows(subject, task)):
        reporter.warn(caution)
    own = folder.resolve() == Path(subject).resolve()
    if not own:
        refuse_output(folder, resume=resume, overwrite=overwrite, reads=models)
    elif (folder / "audit.json").exists() and not (resume or overwrite):
        raise UsageError(f"{folder} already holds an audit.", "Nothing was changed.",
                         "Go on with --resume, choose another --out, or replace it with --overwrite.")
    reads = check_formats([check_audited(place, config, task, settings.max_length, reporter)
                           for place, config in zip(models, configs, strict=True)], reporter)
    load = partial(load_subject, template=task.template, max_length=settings.max_length, device=device())
    loaded = load(subject)
    if resume and not overwrite and (folder / "audit.json").exists():
        check_same_audit(Audit.read(folder / "audit.json"), folder, loaded, task, asked, settings, len(retrained))
    if not own:
        prepare_output(folder, resume=resume, overwrite=overwrite, reads=models)
    made = run_audit(
        Roles(loaded, partial(load, original) if original else None, tuple(partial(load, r) for r in retrained),
              again=partial(load, subject)),
        task, asked, folder, announce=lambda title, total: reporter.task(title, total), cache=ObservationCache(),
        settings=settings, note=reporter.note, notes=other_rows, prompt=reads,
        run=os.path.relpath(made_by, folder) if record else None,
    )
    reporter.close()
    if failed := [c.line for c in made.check(*require) if not c.holds]:
        raise RequirementError(failed, made)
    return made


__all__ = ["audit", "forget", "score_again", "task_of", "train"]
