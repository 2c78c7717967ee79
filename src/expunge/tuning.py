"""Search the options of a recipe: every trial is an ordinary run with an audit, and every trial is kept."""

from __future__ import annotations

import math
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from expunge import api, processes
from expunge.console import Reporter, default_reporter
from expunge.data.model_config import depth_of
from expunge.demonstration import trained_world
from expunge.errors import ExpungeError, InterruptedRun, MissingExtra, UsageError, install_line
from expunge.grids import failure, forget_and_audit
from expunge.methods.recipe import parse
from expunge.models.load import load_subject, read_config
from expunge.output import check_same, prepare_output
from expunge.plugin import Plugin
from expunge.records.base import read_jsonl, write_text
from expunge.records.run import environment
from expunge.records.settings import AuditSettings, RunSettings
from expunge.records.sweep import Sweep, Trial
from expunge.records.task import Task
from expunge.registry import load
from expunge.seeding import derive
from expunge.terms import Call, parse_sum

SUITE = "forget_quality,model_utility,forget.probability,forget.truth_ratio,retain.probability"
FLOOR = 1e-12
"""Forget quality below this counts as this: its logarithm has to stay a number."""
Space = dict[str, tuple[Any, ...]]


def merit(quality: float, utility: float) -> float:
    """log10 of forget quality, less 0.4 for every point of utility (in per cent of the original's) below 95."""
    return quality - 40 * max(0.0, 0.95 - utility)


def sweep(method: str, *, out: str | Path, task: Task | str = "authors", model: str | Path | None = None,
          retrained: Sequence[str | Path] = (), trials: int = 10, suite: str = SUITE,
          settings: RunSettings | None = None, resume: bool = False, overwrite: bool = False, dry_run: bool = False,
          reporter: Reporter | None = None, **options: Any) -> Sweep:
    """Tune a recipe: options that stand in it are fixed, those left out are drawn from the plug-ins' spaces.

    Args:
        method: the recipe.
        out: folder of the trials.
        task: a name, a run folder or a Task.
        model, retrained: the twins to work on; those of the built-in world when left out.
        trials: budget, those of an earlier, interrupted sweep included.
        suite: what every trial is scored with; it must hold forget_quality and model_utility.
        settings, options: of every trial, as in `forget`, without `lr`: the learning rate is searched.
        resume: go on in `out`; finished trials are not run again.
        overwrite: replace `out`, if it is a folder of expunge's.
        dry_run: return the sweep as it would begin; nothing is written.
        reporter: where progress is shown.

    Raises:
        UsageError: with `lr`, or with other options than the sweep in `out` that is resumed.

    Returns:
        The sweep, also in out/sweep.json; out/trials.jsonl grows trial by trial, out/sweep.html draws the front.
    """
    reporter, out = reporter or default_reporter(), Path(out)
    processes.refuse_several("A sweep")
    optuna = optuna_or_why()
    settings = RunSettings.build(settings, **options)
    if settings.lr is not None:
        raise UsageError("A sweep takes no learning rate.", "It draws one for every trial.",
                         "Leave lr out, or name it in the recipe, such as npo + adamw(lr=1e-4).")
    task = api.as_task(task, settings)
    depth = 4 if model is None else depth_of(read_config(model)) or 4
    space = space_of(method, depth)
    if trials < 1:
        raise UsageError("--trials must be above 0.", fix="Give a number above 0.")
    if model is None:
        if not task.name.startswith("authors"):
            raise UsageError("A sweep on a task of yours needs its models.", f"{task.name} is not the built-in world.",
                             "Give MODEL and --retrained MODEL, made with `expunge train`.")
        if not dry_run:
            model = trained_world(task, "full", seed=settings.seed, reporter=reporter)
            retrained = [trained_world(task, "retain", seed=settings.seed + 1, reporter=reporter)]
    elif not retrained:
        raise UsageError("Forget quality compares with a retrained model, and none was given.",
                         fix="Give --retrained MODEL.")
    made = Sweep(recipe=method, space=space, task=task.name, task_fingerprint=task.fingerprint,
                  settings=settings.model_dump(mode="json") | {"suite": suite},
                  model_fingerprint="" if dry_run else load_subject(model or "").fingerprint, seed=settings.seed,
                  environment=environment())
    if dry_run:
        return made
    assert model is not None
    prepare_output(out, resume=resume, overwrite=overwrite, reads=[model, *retrained])
    made = _resumed(made, out)
    made.write(out / "sweep.json")
    tick = reporter.task(f"trials of {method}", trials)
    tick(len(made.trials))
    while len(made.trials) < trials:
        number = len(made.trials)
        params = _draw(optuna, made, number)
        recipe = filled(method, params)
        trial = measure(model, task, recipe, params, number=number, retrained=retrained, suite=suite,
                        settings=settings)
        made = made.model_copy(update={"trials": (*made.trials, trial)})
        _save(made, out)
        tick(1, trial.failed or f"p {10 ** (trial.quality or 0.0):.2g} utility {trial.utility:.1%}")
    reporter.close()
    return made


def space_of(method: str, depth: int = 4) -> Space:
    """`term.option` (`1.term.option` in the second of several stages) -> its space, for options left open; and `lr`.

    The learning rate is searched unless the recipe names one; it is that of every stage with steps of its own.
    """
    stages, calls = parse(method, depth), _terms(method)
    space: Space = {}
    for number, stage in enumerate(calls):
        for call in stage:
            plugin, fixed = load(call.name), {name for name, _ in call.options}
            for option, about in plugin.space.items():
                if option not in fixed and not _redundant(plugin, option, stage):
                    space[_key(number, call.name, option, len(calls))] = about
    trained = [(s, c) for s, c in zip(stages, calls, strict=True) if s.objective is not None]
    named = [c for _, stage in trained for c in stage
             if load(c.name).card.kind == "optimizer" and "lr" in dict(c.options)]
    if trained and not named:
        space = {k: v for k, v in space.items() if k.split(".")[-1] != "lr" or load(k.split(".")[-2]).card.kind
                 != "optimizer"}
        space["lr"] = trained[0][0].optimizer.space.get("lr", ("log", 1e-5, 3e-3))
    if not space:
        raise UsageError(f"The recipe {method!r} leaves nothing open to search.",
                         "Every option with a search space has a value, or it has none.",
                         "Leave options out; `expunge explain NAME` shows their spaces.")
    return space


def _key(number: int, name: str, option: str, stages: int) -> str:
    return f"{name}.{option}" if stages == 1 else f"{number}.{name}.{option}"


def _terms(method: str) -> list[list[Call]]:
    """The typed terms of each stage, presets replaced by those parts of them that no other term replaces."""
    stages = []
    for stage in parse_sum(method):
        plain = [c for c in stage if not getattr(load(c.name), "expands_to", "")]
        kinds = {load(c.name).card.kind for c in plain}
        parts = [c for preset in stage if preset not in plain
                 for c in parse_sum(getattr(load(preset.name), "expands_to", ""))[0]]
        stages.append([*(c for c in parts if load(c.name).card.kind not in kinds), *plain])
    return stages


def _redundant(plugin: type[Plugin], option: str, calls: Sequence[Call]) -> bool:
    """Of forget and retain weights only the ratio matters: beside a named retain term, its weight is enough."""
    retains = any(load(c.name).card.kind == "retain" for c in calls)
    return option == "weight" and plugin.card.kind == "objective" and retains


def filled(method: str, params: Mapping[str, Any]) -> str:
    """The recipe with drawn values written into it (`lr` is a setting of the run)."""
    stages, calls = [], _terms(method)
    for number, stage in enumerate(calls):
        terms = []
        for call in stage:
            prefix = _key(number, call.name, "", len(calls))
            drawn = {k.removeprefix(prefix): v for k, v in params.items() if k.startswith(prefix)}
            options = ", ".join(f"{k}={v!r}" for k, v in {**drawn, **dict(call.options)}.items())
            terms.append(f"{call.name}({options})" if options else call.name)
        stages.append(" + ".join(terms))
    return " >> ".join(stages)


def measure(model: str | Path, task: Task, recipe: str, params: Mapping[str, Any], *, number: int,
            retrained: Sequence[str | Path], suite: str, settings: RunSettings) -> Trial:
    """Forget and audit once, in a folder that is gone afterwards."""
    began = time.perf_counter()
    place = Path(tempfile.mkdtemp(prefix="expunge-"))
    blank = Trial(number=number, params=dict(params), recipe=recipe)
    try:
        record, evidence = forget_and_audit(
            model, task, recipe, place / "run", retrained=retrained,
            audit=AuditSettings(suite=suite, resamples=0, max_length=settings.max_length),
            settings=RunSettings.build(settings, lr=params.get("lr")))
        scores = {s.name: s.value for s in evidence.scores}
        originals = {s.name: s.controls.get("original") for s in evidence.scores}
        quality, utility = _aims(scores, originals)
    except InterruptedRun:
        raise
    except (ExpungeError, RuntimeError) as problem:  # it diverged, or memory ran out: a finding, not the end
        return blank.model_copy(update={"failed": failure(problem), "total_s": time.perf_counter() - began})
    finally:
        shutil.rmtree(place, ignore_errors=True)
    return blank.model_copy(update={
        "scores": scores, "originals": originals, "quality": quality, "utility": utility,
        "merit": merit(quality, utility), "seconds": record.timing.get("train_s", 0.0),
        "total_s": time.perf_counter() - began, "peak_memory_bytes": record.peak_memory_bytes,
    })


def _aims(scores: Mapping[str, float | None], originals: Mapping[str, float | None]) -> tuple[float, float]:
    quality, utility, before = scores.get("forget_quality"), scores.get("model_utility"), originals.get("model_utility")
    if quality is None or utility is None or before is None:
        raise UsageError("This sweep cannot tell a good trial from a bad one.",
                         "forget_quality or model_utility is not available for this task and suite.",
                         "Give rows with wrong answers, a retrained model, and both scores in --suite.")
    return math.log10(max(quality, FLOOR)), utility / before if before else 0.0


def _draw(optuna: Any, sweep: Sweep, number: int) -> dict[str, Any]:
    """The next setting, from everything tried so far: the same again when a sweep is resumed."""
    study = optuna.create_study(
        directions=["maximize", "maximize"],
        sampler=optuna.samplers.TPESampler(seed=derive(sweep.seed, sweep.recipe, number) % 2**32, n_startup_trials=4))
    made = {name: _distribution(optuna, about) for name, about in sweep.space.items()}
    for trial in sweep.trials:
        values = None if trial.quality is None else [trial.quality, trial.utility]
        state = optuna.trial.TrialState.FAIL if values is None else optuna.trial.TrialState.COMPLETE
        study.add_trial(optuna.trial.create_trial(params=trial.params, distributions=made, values=values, state=state))
    asked = study.ask(made)
    return {k: float(f"{v:.3g}") if isinstance(v, float) else v for k, v in asked.params.items()}


def _distribution(optuna: Any, about: Sequence[Any]) -> Any:
    kind, *values = about
    if kind == "choice":
        return optuna.distributions.CategoricalDistribution(values)
    low, high = values
    if isinstance(low, int) and isinstance(high, int):
        return optuna.distributions.IntDistribution(low, high, log=kind == "log")
    # Drawn values are rounded to three digits, which may step over an end.
    return optuna.distributions.FloatDistribution(low * (1 - 5e-3), high * (1 + 5e-3), log=kind == "log")


def _resumed(fresh: Sweep, out: Path) -> Sweep:
    """The sweep with what an earlier one left in the folder."""
    if not (out / "sweep.json").exists():
        return fresh
    before = Sweep.read(out / "sweep.json")
    check_same("The sweep in this folder was", before, fresh,
               ("recipe", "space", "settings", "task_fingerprint", "model_fingerprint", "seed"))
    rows = read_jsonl(out / "trials.jsonl") if (out / "trials.jsonl").exists() else ()
    return fresh.model_copy(update={"trials": tuple(Trial.model_validate(row) for row in rows)})


def _save(made: Sweep, out: Path) -> None:
    from expunge.report.sweep import render_sweep

    lines = [trial.model_dump_json() + "\n" for trial in made.trials]
    write_text(out / "trials.jsonl", "".join(lines))
    made.write(out / "sweep.json")
    write_text(out / "sweep.html", render_sweep(made))


def optuna_or_why() -> Any:
    """The module. Raises MissingExtra with the line that installs it."""
    try:
        import optuna
    except ImportError:
        raise MissingExtra("A search needs the package optuna.", "It is not installed.",
                           f"Install it with: {install_line('sweep')}.") from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


__all__ = ["filled", "measure", "merit", "optuna_or_why", "space_of", "sweep"]
