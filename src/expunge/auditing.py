"""What `expunge audit` looks at before and after the audit itself: rows, finished audits, stored observations."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from expunge.audit.runner import rescore
from expunge.audit.suite import Suite, parse_suite, suite_from_terms
from expunge.benchmarks.loading import remembered
from expunge.console import Reporter
from expunge.errors import ExpungeError, MissingError, PreflightError, UsageError
from expunge.models.load import load_encoder, resolve
from expunge.models.subject import Subject
from expunge.output import is_purged
from expunge.records.prompt import PromptFormat
from expunge.records.run import RunRecord
from expunge.records.score import Audit
from expunge.records.settings import AuditSettings
from expunge.records.task import SPLITS, Task


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
                "fingerprints.",) if differ else ()
    asked = {row.model_dump_json(exclude={"id"}) for row in task.probe_rows("forget")}
    forgot = {row.model_dump_json(exclude={"id"}) for row in (*known.forget, *known.probe_rows("forget"))}
    others = len(asked - forgot)
    trained = {row.model_dump_json(exclude={"id"}) for row in (*known.forget, *known.retain, *known.background)}
    seen = sum(row.model_dump_json(exclude={"id"}) in trained for row in task.holdout)
    return (*([f"{others} of the {len(asked)} forget rows of this audit are not among those that the run forgot."]
              if others else []),
            *([f"{seen} of the {len(task.holdout)} holdout rows of this audit are rows that the run was made with."]
              if seen else []))


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
    for line in first.lines:
        reporter.note(line)
    for warning in first.warnings:
        reporter.warn(warning)
    other = next((one for one in found if one.first_row != first.first_row), None)
    if other is not None:
        reporter.warn("The models of this audit read the rows in different forms, so their figures are not of the same "
                      f"texts. Another one's first row: {other.first_row!r}")
    return first
