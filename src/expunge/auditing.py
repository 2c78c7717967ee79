"""The verb `audit`, and what it looks at before and after: rows, finished audits, stored observations."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, overload

from expunge import processes
from expunge.attacks.base import AttackContext
from expunge.audit.attacks import NO_CONTROL, refusals, too_few
from expunge.audit.cache import ObservationCache
from expunge.audit.requirements import Offer, check_conditions, with_named
from expunge.audit.runner import Roles, asked_aside, ordered, rescore, run_audit
from expunge.audit.suite import Suite, parse_suite, suite_from_terms
from expunge.benchmarks.loading import as_task, default_suite, remembered
from expunge.console import Reporter, default_reporter
from expunge.data.duplicates import count_rows
from expunge.errors import ExpungeError, MissingError, PreflightError, RequirementError, UsageError
from expunge.metrics.evaluate import available, required
from expunge.models.checks import check_model
from expunge.models.endpoint import UNKNOWN, Endpoint
from expunge.models.endpoint_client import is_endpoint
from expunge.models.endpoint_rows import EndpointConfig, connect
from expunge.models.load import load_encoder, load_subject, resolve, subject_class
from expunge.models.subject import Subject
from expunge.output import is_purged, prepare_output, refuse_output
from expunge.records.prompt import PromptFormat
from expunge.records.run import RunRecord
from expunge.records.score import Audit
from expunge.records.settings import AuditSettings, documented
from expunge.records.task import SPLITS, Task
from expunge.runs import device


def task_of(subject: str | Path | None) -> Task | str | None:
    """The rows that a run remembers, or the name of its task; None for anything but a run.

    Raises:
        UsageError: the rows were purged, and no name leads back to them.
    """
    run = Path(subject or "")
    if not subject or not (run / "record.json").exists():
        return None
    found = remembered(run)
    if found is not None:
        return found
    name = RunRecord.read(run / "record.json").task
    if not name.startswith("files:"):
        return name
    if is_purged(run):
        raise UsageError(f"The rows of {run} were purged.", "An audit asks a model about rows.",
                         "Give them again with --forget FILE, and --retain and --holdout where there are any.")
    return None


def check_rows(subject: str | Path, task: Task) -> tuple[str, ...]:
    """What a reader must know where an audit asks a run about other rows than those it was made with."""
    made_by = Path(subject) / "record.json"
    record = RunRecord.read(made_by) if made_by.exists() else None
    if record is None or record.kind != "forget":
        return ()
    known = remembered(Path(subject))
    if known is None:
        now = task.fingerprints()
        differ = [split for split, then in record.task_fingerprints.items() if now.get(split) != then]
        return (f"The {' and '.join(differ)} rows of this audit are not those of the run, by their "
                "fingerprints. Give the files that the run was made with.",) if differ else ()
    asked = {row.model_dump_json(exclude={"id"}) for row in task.probe_rows("forget")}
    forgot = {row.model_dump_json(exclude={"id"}) for row in (*known.forget, *known.probe_rows("forget"))}
    others = len(asked - forgot)
    trained = {row.model_dump_json(exclude={"id"}) for row in (*known.forget, *known.retain, *known.background)}
    seen = sum(row.model_dump_json(exclude={"id"}) in trained for row in task.holdout)
    return (*([f"{others} of the {len(asked)} forget rows of this audit are not among those that the run forgot. "
               "`expunge audit RUN` without --task and --forget asks about its own."]
              if others else []),
            *([f"{seen} of the {len(task.holdout)} holdout rows of this audit are rows that the run was made with. As "
               "a control they must be new to it: leave them out (--on-overlap drop, with the run's --retain)."]
              if seen else []))


def without_control(refused: Mapping[str, str]) -> tuple[str, ...]:
    """What to say before an audit whose attacks are left out, by `refusals`."""
    left_out = [text for text, why in refused.items() if why == NO_CONTROL]
    if not left_out:
        return ()
    return (f"There is no control, so {len(left_out)} attack{'s' * (len(left_out) > 1)} of the suite could show "
            "nothing and will not be run. What the model says by heart counts all the same. Give rows that it never "
            "saw (--holdout FILE), or name an attack in --suite to run it anyway.",)


def check_same_audit(stored: Audit, folder: Path, subject: Subject, task: Task, asked: Suite, settings: AuditSettings,
                twins: int) -> None:
    """A finished audit is gone on with by the same one, or one that asks more; anything else would take its place."""
    before = stored.settings or settings.model_copy(update={"seed": stored.seed, "resamples": stored.resamples})
    # The terms are compared below, and what limit, overlap and template make of the rows by the task's fingerprint.
    options = [name for name in AuditSettings.model_fields if name not in ("suite", "limit", "on_overlap", "template")]
    differs = [name for name, then, now in (
        ("model", stored.subject.fingerprint, subject.fingerprint),
        ("task", stored.task_fingerprint, task.fingerprint),
        *((name.replace("_", " "), getattr(before, name), getattr(settings, name)) for name in options),
        ("number of retrained models", len(stored.retrained), twins)) if then != now]
    left_out = [term for term in stored.suite if term not in asked.terms]
    if differs or left_out:
        why = (f"It is an audit with another {' and '.join(differs)}." if differs else
               f"It has scores that this command does not ask for: {', '.join(left_out[:5])}"
               f"{' and others' * (len(left_out) > 5)}.")
        raise UsageError(f"{folder} holds a finished audit that is not this one.", f"{why} Nothing was changed.",
                         "Choose another --out, or replace it with --overwrite.")


def score_again(folder: str | Path, *, suite: str | None = None, resamples: int | None = None) -> Audit:
    """An audit scored again from its stored observations, with as many bootstrap draws as then.

    No model is loaded, and audit.json stays as it is.
    """
    if not (Path(folder) / "audit.json").is_file():
        raise MissingError(f"{folder} holds no audit to score again.", "There is no audit.json in it.",
                           "Make one with `expunge audit MODEL --task T --out DIR`.")
    stored = Audit.read(Path(folder) / "audit.json")
    asked = parse_suite(suite) if suite else suite_from_terms(stored.suite)
    return rescore(Path(folder), asked, resamples=resamples)


def check_audited(path: str | Path, config: Any, task: Task, max_length: int | None,
                  reporter: Reporter) -> PromptFormat:
    """Every row an audit may ask, wrong answers and options too, must fit this model. Returns how it reads them."""
    encoder = load_encoder(resolve(path), config, task.template, max_length)
    examples = [r for split in SPLITS for r in task.probe_rows(split)]
    answers = [encoder.encode(r) for r in examples]
    problems: list[ExpungeError] = [*encoder.check(answers, config, "audited")]
    others = [encoder.encode(r, answer=a) for r in examples for a in (*r.paraphrased_answers, *r.wrong_answers)]
    problems += encoder.check_alternatives(others, config, "audited alternative")
    if problems:
        raise PreflightError(problems)
    if cut := sum(r.truncated for r in answers):
        reporter.warn(f"{cut} rows are cut to --max-length {max_length}.")
    found: PromptFormat = encoder.describe(task.probe_rows("forget"))
    return found


def check_formats(found: Sequence[PromptFormat], reporter: Reporter) -> PromptFormat:
    """Say how the first of several models reads rows, and where another reads them differently."""
    first = found[0]
    reporter.detail(*first.lines)
    for warning in first.warnings:
        reporter.warn(warning)
    shown = [one for one in found if one.first_row]  # an endpoint does not show how it reads a row
    other = next((one for one in shown if one.first_row != shown[0].first_row), None)
    if other is not None:
        reporter.warn("The models of this audit read the rows in different forms, so their figures are not of the same "
                      f"texts. Another one's first row: {other.first_row!r}. Give all of them one form: --template.")
    return first


@overload
def audit(subject: str | Path, *, dry_run: Literal[True], **options: Any) -> dict[str, Any]: ...


@overload
def audit(
        subject: str | Path, *, out: str | Path | None = None, task: Task | str | None = None,
        forget: str | Path | None = None, retain: str | Path | None = None, holdout: str | Path | None = None,
        mapping: Mapping[str, str] | str | None = None, data_dir: str | Path | None = None,
        original: str | Path | None = None, retrained: str | Path | Sequence[str | Path] = (),
        require: Sequence[str] = (), settings: AuditSettings | None = None, resume: bool = False,
        overwrite: bool = False, dry_run: Literal[False] = False, reporter: Reporter | None = None,
        api_key_file: Path | None = None, **options: Any) -> Audit: ...


@overload
def audit(subject: str | Path, *, dry_run: bool, **options: Any) -> Audit | dict[str, Any]: ...


@documented(AuditSettings)
def audit(
        subject: str | Path, *, out: str | Path | None = None, task: Task | str | None = None,
        forget: str | Path | None = None, retain: str | Path | None = None, holdout: str | Path | None = None,
        mapping: Mapping[str, str] | str | None = None, data_dir: str | Path | None = None,
        original: str | Path | None = None, retrained: str | Path | Sequence[str | Path] = (),
        require: Sequence[str] = (), settings: AuditSettings | None = None, resume: bool = False,
        overwrite: bool = False, dry_run: bool = False, reporter: Reporter | None = None,
        api_key_file: Path | None = None, **options: Any) -> Audit | dict[str, Any]:
    """Ask a model what it still knows, beside the original and retrained models.

    Args:
        subject: a run folder, model folder, hub name, or the address of an OpenAI-shaped endpoint. For a run, the
            model it started from is the original and its rows the rows, unless others are named.
        out: where audit.json and observations/ go; the run folder itself by default.
        task: a name, a run folder (its rows are meant) or a Task; or give files.
        forget, retain, holdout: files of rows; only without a task.
        mapping: our field names -> the file's, or as --map has them.
        data_dir: folder with the files of a published data set.
        original: the model before unlearning.
        retrained: models trained without the forget set; the first is the gold standard, the others
            show the noise floor.
        require: conditions on the result, such as "verdict=forgets" (see `records.requirement`). What cannot be had
            is refused before the work; `Audit.check` asks the same of a finished audit.
        settings: options of the audit; those given by name come before its own.
        resume: go on with an audit that was interrupted, or ask more than a finished one did.
        overwrite: replace `out`, if it is a folder of expunge's.
        dry_run: check everything and return the plan; nothing is written.
        reporter: where progress is shown; in a notebook and on a terminal by default (`expunge.progress`).
        api_key_file: file with the key of an endpoint; else EXPUNGE_API_KEY of the environment.
        options: fields of `AuditSettings`.

    Returns:
        The audit, also written to out/audit.json; with dry_run the plan: terms, observations and attacks with costs.

    Raises:
        RequirementError: a condition does not hold; `error.audit` is the audit.
    """
    reporter = reporter or default_reporter()
    processes.refuse_several("An audit")
    settings = AuditSettings.build(settings, **options)
    named = parse_suite(settings.suite) if settings.suite else None
    retrained = [retrained] if isinstance(retrained, str | Path) else list(retrained)
    made_by = Path(subject) / "record.json"
    record = RunRecord.read(made_by) if made_by.exists() else None
    folder = Path(out) if out is not None else (Path(subject) if record else None)
    if folder is None:
        raise UsageError("An audit of a plain model needs an output folder.", fix="Give --out DIR.")
    if record and settings.max_length is None:  # rows are scored as long as they were trained
        settings = settings.model_copy(update={"max_length": record.settings.max_length})
    if record and original is None and record.kind == "forget":
        original = record.model
    if task is None and forget is None:
        task = task_of(subject)
    task = as_task(task, settings, forget=forget, retain=retain, holdout=holdout, mapping=mapping, data_dir=data_dir)
    asked = with_named(named or replace(parse_suite(default_suite(task.name)), named=frozenset()), require)
    settings = settings.model_copy(update={"template": task.template})
    models = [subject, *([original] if original else []), *retrained]
    known = {m: connect(m, task.template, api_key_file) for m in map(str, models) if is_endpoint(m)}
    configs = [known.get(str(m)) or check_model(m) for m in models]
    offered = subject_class(configs[0]).offers(configs[0])
    check_conditions(require, asked, Offer(task, original is not None, bool(retrained), frozenset(offered)))
    context = AttackContext.of(task)
    refused = refusals(asked, context, original=original is not None, retrained=bool(retrained), offered=offered)
    few = {a.text(): why for a in asked.attacks if a.text() not in refused and (why := too_few(a, context))}
    notes = (*task.notes, *count_rows(task).notes(), *without_control(refused), *(f"{a}: {w}." for a, w in few.items()))
    reporter.note(*notes)
    if dry_run:
        fit = [a for a in asked.attacks if a.text() not in refused]
        asks = available([*asked.metrics, *(term for attack in fit for term in attack.asks)], offered)
        aside = asked_aside(asks) if fit and not retrained else set()
        wanted = ordered(required(asks) | aside, task)
        reads = load_encoder(resolve(subject), configs[0], task.template, settings.max_length)
        return {"terms": list(asked.metrics), "prompt": reads.describe(task.probe_rows("forget")).to_json(),
                "notes": list(notes), "observations": [
            f"{probe} on {len(task.probe_rows(split))} {split} rows" for probe, split in wanted],
            "attacks": {a.text(): f"not run: {refused[a.text()]}" if a.text() in refused else (
                            a.cost(context) or "asks every row once more")
                        for a in asked.attacks}}
    other_rows = (*check_rows(subject, task), *((UNKNOWN,) if known else ()))
    for caution in other_rows:
        reporter.warn(caution)
    own = folder.resolve() == Path(subject).resolve()
    if not own:
        refuse_output(folder, resume=resume, overwrite=overwrite, reads=models)
    elif (folder / "audit.json").exists() and not (resume or overwrite):
        raise UsageError(f"{folder} already holds an audit.", "Nothing was changed.",
                         "Go on with --resume, choose another --out, or replace it with --overwrite.")
    reads = check_formats([check_audited(place, config, task, settings.max_length, reporter)
                           for place, config in zip(models, configs, strict=True)], reporter)
    load = partial(_loaded, known, template=task.template, max_length=settings.max_length, device=device())
    loaded = load(subject)
    if resume and not overwrite and (folder / "audit.json").exists():
        stored = Audit.read(folder / "audit.json")
        check_same_audit(stored, folder, loaded, task, asked, settings, len(retrained))
        # What was declared before the first look stays declared; attacks that are added now are not.
        asked = replace(asked, declared=stored.primary or asked.declared)
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
    for alarm in made.notes[len(other_rows):]:  # those were told before the work
        reporter.warn(alarm)
    if failed := [c.line for c in made.check(*require) if not c.holds]:
        raise RequirementError(failed, made)
    return made


def _loaded(known: Mapping[str, EndpointConfig], place: str | Path, **options: Any) -> Subject:
    """The model at a place; an endpoint as it was met before."""
    config = known.get(str(place))
    return load_subject(place, **options) if config is None else Endpoint(config)
