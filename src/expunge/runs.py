"""A plan carried out in a folder: stages one after the other, each with its record, and what is saved."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch

from expunge import processes
from expunge.console import Reporter
from expunge.errors import ExpungeError, InterruptedRun
from expunge.methods.base import Exact
from expunge.methods.plan import NOTHING_KEPT, Plan, nothing_kept, stop_rule, training_sides
from expunge.methods.recipe import Stage
from expunge.methods.run_context import RunContext
from expunge.methods.stage import StageMethod
from expunge.methods.teaching import START, is_guard, load_teacher, takes_guard_off, teacher_of, without_guard
from expunge.models.load import float32_master, load_subject, made_by, resolve
from expunge.models.reference import ReferenceKind, build_reference, verify
from expunge.models.scope import Scope
from expunge.models.subject import Subject
from expunge.output import check_resumable, prepare_output
from expunge.records.base import read_json, write_json
from expunge.records.costs import share_of_retraining
from expunge.records.run import RunFolder, RunRecord, environment
from expunge.records.settings import RunSettings, TrainSettings
from expunge.records.task import Task
from expunge.registry import file_hashes
from expunge.saving import save_run
from expunge.sequential.base import Sequential
from expunge.training.checkpoint import Progress
from expunge.training.fit import fit
from expunge.training.loop import Loop, OnStep
from expunge.training.memory import peak_memory, reset_peak_memory
from expunge.training.monitor import CheckedMonitor, Monitor
from expunge.training.schedule import Schedule
from expunge.watching import StepLine, Track, watched


def execute(plan: Plan, stages: Sequence[Stage], subject: Subject, task: Task, record: RunRecord, out: Path, *,
            resume: bool, overwrite: bool, reporter: Reporter, on_step: OnStep | Sequence[OnStep] = (),
            track: Track = ()) -> RunRecord:
    """Carry out a plan in `out`: prepare the folder, or go on in it, and run all stages."""
    if processes.on_main(lambda: _already_done(out, record, task, resume=resume, overwrite=overwrite,
                                               reporter=reporter)):
        return RunRecord.read(out / "record.json")
    subject.model.to(device())
    with watched(on_step, track, out, record) as watching:
        record = run_stages(plan, stages, subject, task, record, out, reporter=reporter, on_step=watching)
    reporter.close()
    return record


def device() -> torch.device:
    """The accelerator when there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def make_record(kind: Literal["train", "forget"], stages: Sequence[Stage], settings: TrainSettings | RunSettings,
                model: str | Path, subject: Subject, task: Task, plan: Plan) -> RunRecord:
    """The record of a run that has not begun."""
    processes.start()  # before anything is written
    return RunRecord(
        kind=kind, recipe=plan.recipe, recipe_full={str(i): s.full() for i, s in enumerate(stages)}, settings=settings,
        model=str(Path(model).resolve()) if Path(model).exists() else str(model),
        model_fingerprint=subject.fingerprint, task=task.name, task_fingerprints=task.fingerprints(),
        seed=settings.seed, prompt=plan.prompt,
        environment=environment() | {"device": str(device()), "processes": processes.count()}
        | ({"plugin_files": file_hashes()} if file_hashes() else {}),
    )


def _already_done(out: Path, record: RunRecord, task: Task, *, resume: bool, overwrite: bool,
                  reporter: Reporter) -> bool:
    """Prepare the output folder; True when the run to resume is already finished."""
    prepare_output(out, resume=resume, overwrite=overwrite, reads=[record.model])
    place = RunFolder(out).record
    if resume and place.exists():
        previous = RunRecord.read(place)
        check_resumable(previous, record)
        if previous.status == "finished":
            reporter.note(f"{out} is already {previous.status}: {previous.reason}.")
            return True
        reporter.note(f"Resuming {out}.")
    task.write(RunFolder(out).rows)
    return False


def run_stages(plan: Plan, stages: Sequence[Stage], subject: Subject, task: Task, record: RunRecord, out: Path, *,
               reporter: Reporter, on_step: Sequence[OnStep] = ()) -> RunRecord:
    """Run every stage on the result of the one before; the last model is out/model."""
    folder = RunFolder(out)
    reset_peak_memory()
    done = RunRecord.read(folder.record).stages if folder.record.exists() else ()
    processes.on_main(partial(record.write, folder.record))
    settings, sides = record.settings, training_sides(task, record.settings)
    target = _target(settings, subject, task)
    original_dtype, where = next(subject.model.parameters()).dtype, subject.device
    base: Path | str = resolve(record.model)
    """Where the weights that an adapter would sit on can be loaded from; empty while they are nowhere."""
    if (Path(base) / "adapter_config.json").exists():
        merge_adapter(subject)
        base = ""
    for number, stage in enumerate(stages):
        last = number == len(stages) - 1
        place = out if last else out / "stages" / str(number)
        model_folder = place / "model"
        if model_folder.exists() and not last:  # finished before the interruption
            subject = load_subject(model_folder, encoder=subject.encoder, device=where)
            base = model_folder
            continue
        record = record.model_copy(update={"stages": done[:number]})
        context = RunContext(settings=settings, folder=place / "checkpoint" / "work", beside=place,
                             announce=reporter.task)
        if takes_guard_off(stages, number) and is_guard(made_by(subject.model.config)):
            subject, base = without_guard(subject), ""
        if stage.takes_steps or stage.federated is not None:
            if not stage.scope.adapter:
                float32_master(subject)
            elif last and not base:
                base = out / "base"
                if processes.is_main():
                    subject.save(base)
        if not stage.takes_steps:
            with _end_noted(record, folder):
                subject, record = _run_without_loop(stage, subject, task, record, context)
        else:
            with _end_noted(record, folder):
                teacher = _teacher(stages, number, subject, record, out)
                _prepare(stage, teacher or subject, task, context)
                rows = {side: [subject.encoder.encode(r) for r in sides[side]] for side in stage.scope.reads}
                scope = stage.scope.apply(subject, rows)
                loop = loop_of(plan, number, stage, settings, target, subject)
                record = _run_loop_stage(stage, subject, scope, task, loop, plan.reference[number], record, place,
                                         reporter, on_step, teacher)
                del teacher
        if stage.scope.merged or (stage.scope.adapter and not last):
            merge_adapter(subject)
        elif stage.scope.adapter:
            for config in subject.model.peft_config.values():
                config.base_model_name_or_path = str(Path(base).resolve() if Path(base).exists() else base)
        dtype = torch.float32 if stage.scope.adapter or not last else original_dtype
        processes.on_main(partial(save_run, subject, model_folder, dtype, record))
        base = model_folder
        if len(stages) > 1:
            done = (*record.stages, {k: getattr(record, k) for k in STAGE_FIGURES})
            record = record.model_copy(update={"stages": done, "timing": _summed(done)})
        if last and record.kind == "forget":
            record = record.model_copy(update={"timing": record.timing | share_of_retraining(record, task)})
        if processes.is_main():
            # Before the checkpoint goes: a kill between the two must not repeat the whole run.
            (record if last else record.model_copy(update={"status": "running"})).write(folder.record)
            shutil.rmtree(place / "checkpoint", ignore_errors=True)
    processes.wait()
    return record


STAGE_FIGURES = ("timing", "reference", "parameters", "alarms", "best", "reason")


def _summed(stages: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Steps and seconds of all stages together."""
    steps, seconds = (sum(s["timing"].get(k, 0.0) for s in stages) for k in ("steps", "train_s"))
    tokens = sum(s["timing"].get("tokens_per_s", 0.0) * s["timing"].get("train_s", 0.0) for s in stages)
    known = {"positions": sum(s["timing"]["positions"] for s in stages)} if all(
        "positions" in s["timing"] for s in stages) else {}
    return {"steps": steps, "train_s": round(seconds, 3), "tokens_per_s": round(tokens / max(seconds, 1e-9), 1)} | known


def _run_without_loop(stage: Stage, subject: Subject, task: Task, record: RunRecord,
                      run: RunContext) -> tuple[Subject, RunRecord]:
    """Clients, an edit, a guard or an exact method: no steps of this loop, but the same figures."""
    began = time.perf_counter()
    if stage.federated is not None:
        figures = stage.federated.carry_out(stage, subject, task, run)
        reason = f"made by {stage.federated.card.name} of its clients' models"
    elif stage.edit is not None:
        float32_master(subject)
        edit, reason = stage.edit, "edited"
        edit.announce = run.announce
        figures = edit.serve(subject, task, run) if isinstance(edit, Sequential) else edit.apply(
            subject, task, record.seed)
    else:
        assert stage.wrap is not None
        if isinstance(record.settings, TrainSettings) and isinstance(stage.wrap, Exact):
            subject, figures = stage.wrap.train(subject, task.training_rows(record.settings.split), run)
        else:
            subject, figures = stage.wrap.build(subject, task, run)
        reason = f"built by {stage.wrap.card.name}"
    clients = stage.federated is not None
    own = {name: figures.pop(name) for name in ("alarms", "parameters") if clients}
    return subject, record.model_copy(update=own | {
        "status": "finished", "reason": reason, "best": figures, "peak_memory_bytes": peak_memory(),
        "timing": {"steps": figures["steps"] if clients else 0, "train_s": round(time.perf_counter() - began, 3),
                   "tokens_per_s": 0.0}
        | ({"positions": figures["positions"]} if "positions" in figures else {})})


@contextmanager
def _end_noted(record: RunRecord, folder: RunFolder) -> Iterator[None]:
    """The record says how a run ended early."""
    try:
        yield
    except ExpungeError as error:
        status = "interrupted" if isinstance(error, InterruptedRun) else "failed"
        if processes.is_main():
            record.model_copy(update={"status": status, "reason": error.what}).write(folder.record)
        raise


def _prepare(stage: Stage, subject: Subject, task: Task, run: RunContext) -> None:
    """Let builders look at the model before the first step; a resumed run reads what they made."""
    for name, part in stage.builders.items():
        assert run.folder is not None
        made = run.folder / f"{name}.json"
        if not made.exists():
            write_json(made, part.prepare(subject, task, run))
        part.made = read_json(made)


def _teacher(stages: Sequence[Stage], number: int, student: Subject, record: RunRecord, out: Path) -> Subject | None:
    """The model that teaches this stage, from the folder that holds it."""
    place = teacher_of(stages, number)
    if place is None:
        return None
    return load_teacher(resolve(record.model) if place == START else out / "stages" / str(place) / "model", student)


def merge_adapter(subject: Subject) -> None:
    """Fold an adapter into its base: plain weights again, in float32 since bfloat16 would round the update away."""
    float32_master(subject)
    subject.model = subject.model.merge_and_unload()
    subject.renamed()


def _run_loop_stage(stage: Stage, subject: Subject, scope: Scope, task: Task, loop: Loop, kind: ReferenceKind,
                    record: RunRecord, place: Path, reporter: Reporter, on_step: Sequence[OnStep],
                    teacher: Subject | None) -> RunRecord:
    """One stage with steps, and what the record says about it."""
    settings = record.settings
    method = StageMethod(stage, subject, task, **training_sides(task, settings), seed=settings.seed)
    schedule = Schedule(method.order, subject.encoder, settings.batch_size, settings.accumulate, method.rollout,
                        stage.repeats)
    kept = schedule.token_rows(loop.steps, stage.kept_sides)
    count, sides = stage.likeliest
    reference = build_reference(teacher or subject, kind, kept, apart=teacher is not None,
                                likeliest=(count, schedule.token_rows(loop.steps, sides)),
                                progress=reporter.task("reference", len(kept)) if kept else None)
    monitor = CheckedMonitor(subject, task, settings.seed, place)
    shown = StepLine(reporter, stage.objective.card.name if stage.objective else "train", loop.steps, on_step)
    progress = fit(method, subject, scope, schedule, loop, folder=place, reference=reference, monitor=monitor,
                   on_step=shown).progress
    figures = _figures(progress, loop, scope, verify(reference))
    if isinstance(settings, RunSettings) and nothing_kept(task, settings):
        figures["alarms"] = (NOTHING_KEPT, *figures["alarms"])
    return record.model_copy(update=figures)


def _figures(progress: Progress, loop: Loop, scope: Scope, reference: dict[str, str]) -> dict[str, Any]:
    """What the record says about a finished loop."""
    best = progress.best if loop.stop.keep == "best" else None
    return {
        "status": "finished", "reason": progress.reason,
        "timing": {"steps": progress.step, "train_s": round(progress.seconds, 3),
                   "tokens_per_s": round(progress.tokens / max(progress.seconds, 1e-9), 1),
                   "positions": progress.positions},
        "peak_memory_bytes": peak_memory(), "reference": reference, "parameters": scope.counts(),
        "alarms": tuple(progress.alarms),
        "best": {"rule": loop.stop.describe(best, progress.start), "start": progress.start,
                 "kept": best or {"step": progress.step}},
    }


def loop_of(plan: Plan, number: int, stage: Stage, settings: TrainSettings | RunSettings, target: float | None,
            subject: Subject) -> Loop:
    """The loop of a stage, as the plan says."""
    return Loop(steps=plan.steps[number], eval_every=plan.eval_every[number], seed=settings.seed,
                checkpoint_every=settings.checkpoint_every, gradient_checkpointing=settings.gradient_checkpointing,
                stop=stop_rule(stage, settings, target, subject.outcomes))


def _target(settings: TrainSettings | RunSettings, subject: Subject, task: Task) -> float | None:
    """The forget probability to aim at; None when training, or where no row tells it."""
    if isinstance(settings, TrainSettings):
        return None
    if settings.forget_target is not None:
        return settings.forget_target
    return Monitor(subject, task, settings.seed).never_trained()
