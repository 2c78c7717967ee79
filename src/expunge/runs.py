"""One run from request to folder: output rules, the monitor, stages, resume, record."""

from __future__ import annotations

import contextlib
import math
import os
import resource
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch

from expunge import processes
from expunge.console import Reporter
from expunge.errors import ExpungeError, InterruptedRun, NonFiniteError
from expunge.methods.base import Exact
from expunge.methods.recipe import Stage
from expunge.methods.stage import StageMethod
from expunge.methods.work import Work
from expunge.models.load import float32_master, load_subject, own_module, resolve, save_in
from expunge.models.reference import build_reference, verify
from expunge.models.scope import Scope
from expunge.models.subject import Subject
from expunge.records.base import read_json, write_json, write_text
from expunge.records.run import RunFolder, RunRecord
from expunge.records.settings import LoopSettings, TrainSettings
from expunge.records.task import Example, Task
from expunge.seeding import stream
from expunge.training.loop import Loop, Progress, run_loop
from expunge.training.schedule import Schedule
from expunge.training.stopping import StopRule

MONITORED = 64
"""Rows per side the monitor reads: enough to steer by, cheap enough to read every epoch."""


class Monitor:
    """Mean answer probabilities on samples of forget and retain rows, with the subject as it is now."""

    def __init__(self, subject: Subject, task: Task, seed: int) -> None:
        self._subject = subject
        self._forget = _sample(task.forget, seed)
        self._utility = _sample(task.retain or task.background, seed)
        self._holdout = _sample(task.holdout, seed)

    def __call__(self) -> dict[str, float]:
        """forget and utility (0 to 1), forget_loss (nats per token)."""
        forget = self._token_means(self._forget)
        utility = self._token_means(self._utility)
        return {"forget": _mean(map(math.exp, forget)), "forget_loss": -_mean(forget),
                "utility": _mean(map(math.exp, utility)) if utility else 1.0}

    def never_trained(self) -> float | None:
        """The level of rows no model was trained on: where forgetting is complete."""
        found = self._token_means(self._holdout)
        return _mean(map(math.exp, found)) if found else None

    def _token_means(self, examples: Sequence[Example]) -> list[float]:
        """Mean log-prob per token of each answer."""
        subject, found = self._subject, []
        rows = [subject.encoder.encode(e) for e in examples]
        with subject.evaluating():
            for chosen in subject.encoder.batches(rows):
                batch = subject.collate([rows[i] for i in chosen])
                answers = subject.answers(batch)
                sums_B = answers.per_row(answers.logp_N)
                found += [float(s) / (r.supervised) for s, r in zip(sums_B, batch.rows, strict=True)]
        return found


def run_stages(stages: Sequence[Stage], subject: Subject, task: Task, rows: Callable[[Stage], dict[str, Any]],
               record: RunRecord, out: Path, *, plan: Callable[[Stage, Schedule], Loop],
               settings: LoopSettings, reporter: Reporter) -> RunRecord:
    """Run every stage on the result of the one before; the last model is out/model.

    Args:
        rows: stage -> {"forget": rows, "retain": rows} to draw from.
        plan: stage and its schedule -> loop settings.
    """
    folder = RunFolder(out)
    reset_peak_memory()
    done = RunRecord.read(folder.record).stages if folder.record.exists() else ()
    processes.on_main(partial(record.write, folder.record))
    came_in, where = next(subject.model.parameters()).dtype, subject.device
    base: Path | str = resolve(record.model)
    """Where the weights that an adapter would sit on can be loaded from; empty while they are nowhere."""
    if (Path(base) / "adapter_config.json").exists():
        _merge(subject)
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
        if stage.objective is None and (stage.edit or stage.wrap):
            with _end_noted(record, folder):
                subject, record = _run_without_loop(stage, subject, task, record,
                                                    _work(settings, place, reporter))
        else:
            if not stage.scope.adapter:
                float32_master(subject)
            elif last and not base:
                base = out / "base"
                if processes.is_main():
                    subject.save(base)
            with _end_noted(record, folder):
                _prepare(stage, subject, task, _work(settings, place, reporter))
                given = rows(stage)
                tokens = {side: [subject.encoder.encode(r) for r in given[side]] for side in stage.scope.reads}
                scope = stage.scope.apply(subject, tokens)
                record = _run_loop_stage(stage, subject, scope, task, given, record, place, plan,
                                         settings, reporter)
        if stage.scope.adapter and not last:
            _merge(subject)
        elif stage.scope.adapter:
            for config in subject.model.peft_config.values():
                config.base_model_name_or_path = str(Path(base).resolve() if Path(base).exists() else base)
        dtype = torch.float32 if stage.scope.adapter or not last else came_in
        processes.on_main(partial(_leave, subject, model_folder, dtype, record))
        base = model_folder
        if len(stages) > 1:
            done = (*record.stages, {k: getattr(record, k) for k in STAGE_FIGURES})
            record = record.model_copy(update={"stages": done, "timing": _summed(done)})
        if processes.is_main():
            # Before the checkpoint goes: a kill between the two must not repeat the whole run.
            (record if last else record.model_copy(update={"status": "running"})).write(folder.record)
            shutil.rmtree(place / "checkpoint", ignore_errors=True)
    processes.wait()
    return record


def _leave(subject: Subject, folder: Path, dtype: torch.dtype, record: RunRecord) -> None:
    """Save the model and its card beside, then put them in place."""
    fresh = folder.with_name(".model.new")
    shutil.rmtree(fresh, ignore_errors=True)
    save_in(subject, fresh, dtype, record.seed)
    write_text(fresh / "README.md", model_card(record, subject.model.config.model_type))
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(fresh, folder)


STAGE_FIGURES = ("timing", "reference", "parameters", "alarms", "best", "reason")


def _summed(stages: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Steps and seconds of all stages together."""
    steps, seconds = (sum(s["timing"].get(k, 0.0) for s in stages) for k in ("steps", "train_s"))
    tokens = sum(s["timing"].get("tokens_per_s", 0.0) * s["timing"].get("train_s", 0.0) for s in stages)
    return {"steps": steps, "train_s": round(seconds, 3), "tokens_per_s": round(tokens / max(seconds, 1e-9), 1)}


def _run_without_loop(stage: Stage, subject: Subject, task: Task, record: RunRecord,
                      work: Work) -> tuple[Subject, RunRecord]:
    """An edit, a guard or an exact method: no steps of ours, but the same figures."""
    began = time.perf_counter()
    if stage.edit is not None:
        float32_master(subject)
        figures, reason = stage.edit.apply(subject, task, record.seed), "edited"
    else:
        assert stage.wrap is not None
        if isinstance(record.settings, TrainSettings) and isinstance(stage.wrap, Exact):
            subject, figures = stage.wrap.train(subject, task.training_rows(record.settings.split), work)
        else:
            subject, figures = stage.wrap.build(subject, task, work)
        reason = f"built by {stage.wrap.card.name}"
    return subject, record.model_copy(update={
        "status": "finished", "reason": reason, "best": figures, "peak_memory_bytes": peak_memory(),
        "timing": {"steps": 0, "train_s": round(time.perf_counter() - began, 3), "tokens_per_s": 0.0}})


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


def _work(settings: LoopSettings, place: Path, reporter: Reporter) -> Work:
    return Work(seed=settings.seed, folder=place / "checkpoint" / "work", batch_size=settings.batch_size,
                accumulate=settings.accumulate, epochs=settings.epochs, steps=settings.steps, announce=reporter.task)


def _prepare(stage: Stage, subject: Subject, task: Task, work: Work) -> None:
    """Let a builder look at the model before the first step; a resumed run reads what it made."""
    if stage.objective is None or not stage.objective.builds:
        return
    assert work.folder is not None
    made = work.folder / "made.json"
    if not made.exists():
        write_json(made, stage.objective.prepare(subject, task, work))
    stage.objective.made = read_json(made)


def _merge(subject: Subject) -> None:
    """Fold an adapter into its base: plain weights again, in float32 since bfloat16 would round the update away."""
    float32_master(subject)
    subject.model = subject.model.merge_and_unload()
    subject.renamed()


def model_card(record: RunRecord, model_type: str) -> str:
    """README.md of the saved weights: what they are, where they come from and what loading them needs."""
    done = "unlearned" if record.kind == "forget" else "trained"
    kept = {k: v for k, v in record.best.get("kept", {}).items() if isinstance(v, int | float)}
    own = own_module(model_type)
    return "\n".join([
        "---", "library_name: transformers", "tags: [machine-unlearning, expunge]", "---", "",
        f"# {Path(record.model).name}, {done}", "",
        f"- recipe: `{record.recipe}`", f"- task: `{record.task}`", f"- seed: {record.seed}",
        f"- weights before: fingerprint `{record.model_fingerprint}`",
        *(f"- {name} at the kept step: {value:.4g}" for name, value in kept.items()), "",
        "The run's `record.json` holds every option, input and version. What the model still knows is",
        "for an audit to say: `expunge audit`.", "",
        *(f"Its class is expunge's own: `import {module}` before `AutoModelForCausalLM.from_pretrained`.\n"
          for module in own),
    ])


def _run_loop_stage(stage: Stage, subject: Subject, scope: Scope, task: Task, rows: dict[str, Any],
                    record: RunRecord, place: Path, plan: Callable[[Stage, Schedule], Loop],
                    settings: LoopSettings, reporter: Reporter) -> RunRecord:
    method = StageMethod(stage, subject, task, rows["forget"], rows["retain"], record.seed)
    schedule = Schedule(method.order, subject.encoder, settings.batch_size, settings.accumulate)
    loop = plan(stage, schedule)
    name = stage.objective.card.name if stage.objective else "train"
    asked = schedule.token_rows(loop.steps, stage.kept_sides)
    count, wide = stage.likeliest
    reference = build_reference(subject, stage.needs, asked, adapter=scope.adapter,
                                likeliest=(count, schedule.token_rows(loop.steps, wide)),
                                progress=reporter.task("reference", len(asked)) if asked else None)
    monitor = Monitor(subject, task, record.seed)
    tick = reporter.task(name, loop.steps)
    resumed = [0]

    def show(line: dict[str, Any]) -> None:
        words = " ".join(f"{k}={v:.3f}" for k, v in line["terms"].items())
        if "eval" in line:
            words += f" | forget {line['eval']['forget']:.3f} utility {line['eval']['utility']:.3f}"
        tick(line["step"] - resumed[0], words)
        resumed[0] = line["step"]
        for alarm in line.get("alarms", []):
            if alarm not in warned:
                warned.append(alarm)
                reporter.warn(alarm)

    fresh = [] if (place / "checkpoint").exists() else [True]

    def reading() -> dict[str, float]:
        """The monitor, refusing what the last update may have ruined: no later loss would show it."""
        seen, first = monitor(), fresh and fresh.pop()
        if all(map(math.isfinite, seen.values())):
            return seen
        if first:
            raise NonFiniteError("Before the first step the model's answers are not finite.",
                                 fix="Its weights are broken; look at them before they are changed.")
        done = len(RunFolder(place).steps.read_text(encoding="utf-8").splitlines())
        raise NonFiniteError(f"Step {done + 1}: the model's answers are not finite any more.",
                             f"The checkpoints before it, if there are any, are kept in {place}.",
                             "Try a smaller learning rate, or gradient clipping (adamw(clip=1.0)).")

    warned: list[str] = []
    progress = run_loop(method, subject, scope, schedule, loop, place, reference=reference, monitor=reading,
                        on_step=show)
    return record.model_copy(update=_figures(progress, loop, scope, verify(reference)))


def _figures(progress: Progress, loop: Loop, scope: Scope, reference: dict[str, str]) -> dict[str, Any]:
    """What the record says about a finished loop."""
    return {
        "status": "stopped" if progress.stopped else "finished", "reason": progress.reason,
        "timing": {"steps": progress.step, "train_s": round(progress.seconds, 3),
                   "tokens_per_s": round(progress.tokens / max(progress.seconds, 1e-9), 1)},
        "peak_memory_bytes": peak_memory(), "reference": reference, "parameters": scope.counts(),
        "alarms": tuple(progress.alarms),
        "best": {"rule": loop.stop.describe(), "start": progress.start,
                 "kept": (progress.best if loop.stop.keep == "best" else None) or {"step": progress.step}},
    }


def peak_memory() -> int:
    """Peak bytes since `reset_peak_memory`: of the accelerator where there is one, else of the process."""
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(line.split()[1] for line in lines if line.startswith("VmHWM:"))) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def reset_peak_memory() -> None:
    """Count from here: an earlier run in the same process is not this one's. Where the system cannot, nothing."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def stop_rule(monitor_target: float | None, *, stage: Stage, outcomes: int, keep: str, utility_floor: float,
              stop_at_target: bool, stop_at_floor: bool) -> StopRule:
    """The stopping rule of a stage: unbounded objectives get a ceiling even when nobody asks."""
    unbounded = stage.objective is not None and stage.objective.unbounded
    return StopRule(
        forget_target=monitor_target, stop_at_target=stop_at_target, stop_at_floor=stop_at_floor,
        utility_floor=utility_floor, keep=keep,
        forget_ceiling=math.log(outcomes) if unbounded else None,
    )


def _sample(rows: Sequence[Example], seed: int) -> list[Example]:
    return list(rows) if len(rows) <= MONITORED else stream(seed, "monitor").sample(list(rows), MONITORED)


def _mean(values: Any) -> float:
    found = list(values)
    return sum(found) / len(found)
