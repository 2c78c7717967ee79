"""Methods on a benchmark with equal budgets: the same number of trials each, then runs with several seeds, audited.

Trials and runs are grids, so that what was finished is never done again. The table is always made from run folders
whose scores are computed again from their stored observations, whoever made them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from expunge import api, processes
from expunge.audit.suite import parse_suite
from expunge.benchmarks.loading import load_task, parse_task
from expunge.console import Reporter, default_reporter
from expunge.data.model_config import depth_of
from expunge.demonstration import trained_world
from expunge.errors import InterruptedRun, UsageError
from expunge.grids import recipes_of, run_grid, seeds_of
from expunge.models.load import load_subject, read_config, resolve
from expunge.models.pairs import UNSEEN, find_pair
from expunge.output import check_same, prepare_output, refuse_output
from expunge.records.bench import Bench, BenchTable, Chosen
from expunge.records.grid import CellKey, Grid, GridCell
from expunge.records.run import RunFolder, environment
from expunge.records.score import Audit
from expunge.records.settings import AuditSettings, RunSettings
from expunge.records.task import Task
from expunge.report.bench import KEPT, LEAK, kept_of, penalty, value_of, write
from expunge.submissions import table_of, unseen_note
from expunge.tuning import Space, filled, space_of

CHOOSING = f"{LEAK},{KEPT}"
"""What a trial is asked."""
OWN = f"{LEAK},over_forget_share,forget.probability,{KEPT}"
"""What is asked beside a suite that a task has of its own."""
TRIALS = 4
SMALL = 200_000_000
"""Bytes of weights up to which several runs share the cores of a machine without an accelerator."""


@dataclass(frozen=True)
class Models:
    """What a benchmark starts from, and what it compares with."""

    original: str
    retrained: tuple[str, ...]


def bench(suite: str, *, out: str | Path, methods: str | Sequence[str] = (), model: str | Path | None = None,
          retrained: str | Path | Sequence[str | Path] = (), seeds: int | str | Sequence[int] = 3, trials: int = TRIALS,
          lr: Sequence[float] = (), submissions: Sequence[str | Path] = (), asked: str | None = None,
          data_dir: str | Path | None = None, jobs: int | None = None, settings: RunSettings | None = None,
          resume: bool = False, overwrite: bool = False, reporter: Reporter | None = None,
          **options: Any) -> BenchTable:
    """Run methods on a benchmark with equal budgets, or set run folders on it beside each other.

    Args:
        suite: the task, such as tofu:forget01.
        out: folder of bench.json, of the trials and runs, and of the table: table.json, bench.md and bench.html.
        methods: recipes; one string may hold several, by commas outside brackets.
        model: the original: a run folder, model folder or hub name; or a pair by its name, such as tofu_tiny, or its
            folder, which holds `original` and `retrained` ones. The built-in world's when left out.
        retrained: models trained without the forget set; those of a pair when left out.
        seeds: how many (3 means 0, 1 and 2), or the seeds themselves. Trials have another seed.
        trials: settings tried for each method before its runs; 1 takes the recipe as it stands.
        lr: learning rates of the trials, in place of `trials`.
        submissions: run folders, grids or benchmarks to make the table of; then nothing is run.
        asked: what the audits ask; the benchmark's own by default.
        data_dir: folder with the files of a published data set, and of models by name.
        jobs: runs at once; of small models one for each core, else 1.
        settings, options: of every run, as in `forget`, without `lr` and `seed`.
        resume: go on in `out`; what is finished is not run again.
        overwrite: replace `out`, if it is a folder of expunge's.
        reporter: where progress is shown.

    Raises:
        UsageError: nothing to run, or a benchmark with other settings lies in `out`.
        DataError: the scores of a run folder are not those of its observations, or it is of other rows.
        InterruptedRun: Ctrl-C, or a process was killed; what was finished is kept.
    """
    reporter, out = reporter or default_reporter(), Path(out)
    processes.refuse_several("A benchmark")
    settings = RunSettings.build(settings, **options)
    if settings.lr is not None or settings.seed:
        raise UsageError("A benchmark takes lists of learning rates and seeds, not one in its settings.",
                         fix="Give lr=[...] and seeds=[...].")
    data = Path(data_dir) if data_dir is not None else None
    task = api.as_task(load_task(suite, data_dir=data), settings)
    if submissions:
        if methods or model or retrained or resume:
            raise UsageError("--from makes a table of finished runs, and takes no --methods, --model or --resume.",
                             fix="Leave them out, or run the methods in a folder of their own and name it by --from.")
        found = table_of(task, [Path(f) for f in submissions], data_dir=data, reporter=reporter)
        prepare_output(out, resume=False, overwrite=overwrite, reads=list(submissions))
        write(found, out)
        return found
    recipes, numbers, rates = recipes_of(methods), seeds_of(seeds), tuple(dict.fromkeys(lr))
    if trials < 1:
        raise UsageError("--trials must be at least 1.", fix="Give how many settings to try for each method.")
    refuse_output(out, resume=resume, overwrite=overwrite)
    models = _models(task, model, retrained, data, reporter)
    depth = depth_of(read_config(models.original)) or 4
    drawn = {recipe: candidates(recipe, depth, trials, rates) for recipe in recipes}
    audit = AuditSettings(suite=asked or suite_of(suite), max_length=settings.max_length)
    parse_suite(audit.suite or "")
    plan = Bench(suite=task.name, task_fingerprint=task.fingerprint, model=models.original,
                 model_fingerprint=load_subject(models.original).fingerprint, retrained=models.retrained,
                 methods=recipes, seeds=numbers, trials=len(rates) or trials, rates=rates, settings=settings,
                 audit=audit, environment=environment())
    if resume and not overwrite and (out / Bench.FILE).is_file():
        check_same("The benchmark in this folder was", Bench.read(out), plan,
                   ("task_fingerprint", "model_fingerprint", "retrained", "methods", "seeds", "trials", "rates",
                    "settings", "audit"))
    reads = [models.original, *models.retrained]
    prepare_output(out, resume=resume, overwrite=overwrite, reads=reads)
    plan.write(out / Bench.FILE)
    common: dict[str, Any] = {"task": task, "retrained": models.retrained, "settings": settings,
                              "jobs": jobs or jobs_for(models.original), "reporter": reporter}
    try:
        plan = _chosen(plan, drawn, out, common)
        cells = [(c.recipe, c.lr, seed) for seed in numbers for c in plan.chosen if not c.failed]
        if not cells:
            raise UsageError("No method could be run.", "\n".join(f"{c.method}: {c.failed}" for c in plan.chosen))
        run_grid(models.original, cells, out=out / "runs", audit=audit, resume=(out / "runs").exists(), **common)
    except InterruptedRun as stopped:
        raise InterruptedRun("The benchmark was interrupted.", stopped.why,
                             "Repeat the command with --resume; what is finished is not run again.") from None
    found = table_of(task, [out], data_dir=data, reporter=reporter)
    write(found, out)
    return found


def _models(task: Task, model: str | Path | None, retrained: str | Path | Sequence[str | Path], data: Path | None,
            reporter: Reporter) -> Models:
    """The original and the retrained models, given or found."""
    given = [retrained] if isinstance(retrained, str | Path) else list(retrained)
    if model is None:
        if not task.name.startswith("authors"):
            raise UsageError("A benchmark needs its model.", f"{task.name} is not the built-in world.",
                             "Give --model with a pair such as tofu_tiny, or --model and --retrained.")
        original = trained_world(task, "full", reporter=reporter)
        given = given or [trained_world(task, "retain", seed=1, reporter=reporter)]
    elif Path(model).exists() and _is_model(Path(model)):
        original = Path(model)
    elif (pair := find_pair(str(model), data)) is not None:
        original, given = pair.original, given or list(pair.retrained)
        if str(model) in UNSEEN:
            unseen_note(str(model), task, data)  # refuses a pair that is no control, before hours of runs
    else:
        original = Path(str(model))
    if not given:
        raise UsageError("A benchmark compares with a retrained model, and none was given.",
                         fix="Give --retrained MODEL, trained with `expunge train ... --split retain`; or --model with "
                             "a folder that holds original and retrained.")
    return Models(_full(original), tuple(map(_full, given)))


def _is_model(place: Path) -> bool:
    return any((at / name).is_file() for at in (place, place / "model") for name in ("config.json",
                                                                                    "adapter_config.json"))


def _full(place: str | Path) -> str:
    return str(Path(place).resolve()) if Path(place).exists() else str(place)


def suite_of(name: str) -> str:
    """What audits of a benchmark ask: what its card says, else its own suite, leaks and the quick attacks."""
    card = parse_task(name)[0].card
    return card.bench or ("bench" if card.suite == "standard" else f"{OWN},{card.suite},quick_attacks")


def jobs_for(model: str) -> int:
    """One for each core where the weights are small and there is no accelerator, else 1."""
    import torch

    from expunge.cli.threads import available_cores

    weights = sum(p.stat().st_size for p in Path(resolve(model)).glob("*.safetensors"))
    return available_cores() if 0 < weights < SMALL and not torch.cuda.is_available() else 1


def candidates(recipe: str, depth: int, trials: int, rates: Sequence[float]) -> list[tuple[str, float | None]]:
    """The settings that are tried, a recipe and a learning rate each.

    A recipe with steps is tried as it stands at rates spread evenly, on a logarithmic scale, over the space of its
    optimizer (or at those given). One without draws the options that it leaves open, the first time as it stands.
    """
    count = len(rates) or trials
    if count == 1 and not rates:
        return [(recipe, None)]
    try:
        space = space_of(recipe, depth)
    except UsageError:  # nothing is open
        return [(recipe, None)]
    if "lr" in space:
        low, high = (math.log(bound) for bound in space["lr"][1:])
        spread = [math.exp(low + (high - low) * (i + 0.5) / count) for i in range(count)]
        return [(recipe, float(f"{rate:.3g}")) for rate in rates or spread]
    return [(recipe, None), *((filled(recipe, params), None) for params in _spread(space, count - 1))]


def _spread(space: Space, count: int) -> list[dict[str, Any]]:
    """Settings that fill a space evenly: a Latin hypercube, the same for the same space."""
    from scipy.stats import qmc

    points = qmc.LatinHypercube(len(space), rng=0).random(count) if count else []
    return [{name: _at(about, float(x)) for (name, about), x in zip(space.items(), point, strict=True)}
            for point in points]


def _at(about: Sequence[Any], x: float) -> Any:
    """The value of an option at a share of its space."""
    kind, *values = about
    if kind == "choice":
        return values[int(x * len(values))]
    low, high = values
    value = math.exp(math.log(low) + x * (math.log(high) - math.log(low))) if kind == "log" else low + x * (high - low)
    return round(value) if isinstance(low, int) and isinstance(high, int) else float(f"{value:.3g}")


def _chosen(plan: Bench, drawn: Mapping[str, Sequence[tuple[str, float | None]]], out: Path,
            common: Mapping[str, Any]) -> Bench:
    """The plan with the best setting of every method; trials that are done already are not run again."""
    place, seed = out / "trials", max(plan.seeds) + 1
    tried = {recipe: settings for recipe, settings in drawn.items() if len(settings) > 1}
    found: dict[CellKey, GridCell] = {}
    if tried:
        cells = [(recipe, rate, seed) for settings in tried.values() for recipe, rate in settings]
        asked = AuditSettings(suite=CHOOSING, resamples=0, max_length=plan.settings.max_length)
        grid = run_grid(plan.model, cells, out=place, audit=asked, resume=place.exists(), **common)
        found = {cell.key: cell for cell in grid.cells}
        _without_weights(place, grid)
    chosen = []
    for recipe, settings in drawn.items():
        mine = [found[r, rate, seed] for r, rate in settings] if recipe in tried else []
        chosen.append(_best(recipe, mine, place) if mine else
                      Chosen(method=recipe, recipe=settings[0][0], lr=settings[0][1], tried=1))
    plan = plan.model_copy(update={"chosen": tuple(chosen)})
    plan.write(out / Bench.FILE)
    return plan


def _best(recipe: str, cells: Sequence[GridCell], place: Path) -> Chosen:
    """The setting with the least leak share, plus what lost utility costs; of equals the first."""
    ranked = []
    for cell in (c for c in cells if c.status == "finished"):
        audit = Audit.read(place / cell.folder)
        ranked.append((penalty(value_of(audit, LEAK), kept_of(audit)), cell))
    if not ranked:
        return Chosen(method=recipe, recipe=recipe, lr=None, tried=len(cells), failed=cells[0].failed or "no trial ran")
    least, cell = min(ranked, key=lambda found: found[0])
    if math.isinf(least):
        raise UsageError(f"No trial of {recipe} has both {LEAK} and {KEPT}, so none can be chosen.",
                         "This task, or its models, do not allow these scores.",
                         "Give --trials 1: every recipe is run as it stands.")
    return Chosen(method=recipe, recipe=cell.method, lr=cell.lr, tried=len(cells))


def _without_weights(place: Path, grid: Grid) -> None:
    """Trials keep records and observations; nobody needs their weights any more."""
    import shutil

    for cell in grid.cells:
        shutil.rmtree(RunFolder(place / cell.folder).model, ignore_errors=True)


__all__ = ["bench"]
