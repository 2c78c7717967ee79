"""Methods x learning rates x seeds: every cell is an ordinary run with an audit, and a killed grid goes on."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import tempfile
import threading
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from expunge import api, processes
from expunge.audit.suite import parse_suite
from expunge.benchmarks.loading import remembered
from expunge.console import Reporter, default_reporter
from expunge.data.model_config import depth_of
from expunge.demonstration import WORLD_SIZE, trained_world
from expunge.errors import ExpungeError, InterruptedRun, PreflightError, UsageError, first_line
from expunge.methods.recipe import parse
from expunge.models.load import config_from, load_subject, read_config
from expunge.models.tiny import build_for
from expunge.output import check_same, prepare_output, refuse_output
from expunge.records.base import write_text
from expunge.records.grid import CellKey, Grid, GridCell
from expunge.records.run import RunFolder, RunRecord, environment
from expunge.records.score import Audit
from expunge.records.settings import AuditSettings, RunSettings
from expunge.records.task import Task
from expunge.registry import add_file, files
from expunge.report.commands import resume_grid
from expunge.terms import split_at_commas

SUITE = "scores"
"""What every cell is audited with: every score and no attack."""


@dataclass(frozen=True)
class Common:
    """What all cells share, as a process of its own needs it."""

    out: Path
    model: str
    retrained: tuple[str, ...]
    task: Task
    settings: RunSettings
    audit: AuditSettings
    plugins: tuple[Path, ...]


def grid(model: str | Path | None = None, *, methods: str | Sequence[str] = (), out: str | Path,
         lr: float | str | Sequence[float | str] = (), seeds: int | str | Sequence[int] = 3,
         task: Task | str = "authors", retrained: str | Path | Sequence[str | Path] = (), suite: str | None = None,
         jobs: int = 1, settings: RunSettings | None = None, resume: bool = False, overwrite: bool = False,
         dry_run: bool = False, reporter: Reporter | None = None, **options: Any) -> Grid:
    """Run every method at every learning rate with every seed, and audit each run.

    Args:
        model: a run folder, model folder or hub name; the built-in world's original when left out.
        methods: recipes; one string may hold several, by commas outside brackets. With `resume` they may be left out,
            with every other option: all cells of the grid in `out` that are not finished are run.
        out: folder of the grid. Each cell is a run folder in it, with its audit; grid.json and grid.csv hold a row
            for each.
        lr: peak learning rates; the recipes' own when left out. A recipe that takes no steps, or names its own
            learning rate, has one cell per seed.
        seeds: how many (3 means 0, 1 and 2), or the seeds themselves, as a list or by commas.
        task: a name, a run folder (its rows are meant) or a Task, such as `load_task(forget=...)` makes of files.
        retrained: models trained without the forget set, for the audits; the built-in world's by default there.
        suite: what the audits ask; every score and no attack by default.
        jobs: how many cells are run at once, each in a process of its own; they share the cores of this one.
        settings, options: of every run, as in `forget`, without `seed`.
        resume: go on in `out`. Finished cells are not run again, failed ones are. Methods, rates and seeds may be
            added; other settings must be the same.
        overwrite: replace `out`, if it is a folder of expunge's.
        dry_run: check all cells and return the grid; nothing is written.
        reporter: where progress is shown.

    Returns:
        The grid, also in out/grid.json. Cells whose run or audit failed say why.

    Raises:
        PreflightError: a cell cannot work; nothing was run.
        UsageError: nothing to run, or other settings than the grid in `out`.
        InterruptedRun: Ctrl-C, or a process was killed; what was finished is kept.
    """
    reporter, out = reporter or default_reporter(), Path(out)
    processes.refuse_several("A grid")
    settings = RunSettings.build(settings, **options)
    if resume and not methods:
        others = (model, lr, retrained, suite, overwrite, settings != RunSettings(), task != "authors",
                  str(seeds) != "3")
        if any(others):
            raise UsageError("--resume without --methods goes on with the grid as it is, so it takes no other option.",
                             fix=f"Give --out {out} and --resume alone (and --jobs), or the whole command.")
        return _go_on(out, jobs, dry_run, reporter)
    recipes, rates, numbers = recipes_of(methods), rates_of(lr), seeds_of(seeds)
    if settings.lr is not None or settings.seed:
        raise UsageError("A grid takes lists of learning rates and seeds, not one in its settings.",
                         fix="Give lr=[...] and seeds=[...].")
    if jobs < 1:
        raise UsageError("--jobs must be at least 1.", fix="Give the number of processes.")
    task = api.as_task(task, settings)
    retrained = [retrained] if isinstance(retrained, str | Path) else list(retrained)
    asked = AuditSettings(suite=suite or SUITE, max_length=settings.max_length)
    parse_suite(asked.suite or SUITE)
    if model is None and not task.name.startswith("authors"):
        raise UsageError("A grid on a task of yours needs its model.", f"{task.name} is not the built-in world.",
                         "Give MODEL, and --retrained MODEL where there is one; `expunge train` makes both.")
    depth = 4 if model is None else depth_of(read_config(model)) or 4
    wanted = [(method, rate, seed) for seed in numbers for method in recipes
              for rate in (rates if takes_rate(method, depth) else (None,))]
    if model is None:  # before minutes of training
        check_on_new_model(task, settings, wanted)
    if model is None and not dry_run:
        model = trained_world(task, "full", reporter=reporter)
        retrained = retrained or [trained_world(task, "retain", seed=1, reporter=reporter)]
    return run_grid(model, wanted, out=out, task=task, retrained=retrained, settings=settings, audit=asked, jobs=jobs,
                    resume=resume, overwrite=overwrite, dry_run=dry_run, reporter=reporter)


def run_grid(model: str | Path | None, wanted: Sequence[CellKey], *, out: Path, task: Task,
             retrained: Sequence[str | Path], settings: RunSettings, audit: AuditSettings, jobs: int,
             resume: bool = False, overwrite: bool = False, dry_run: bool = False, reporter: Reporter) -> Grid:
    """The grid of just these cells; see `grid`."""
    common = Common(out.resolve(), _absolute(model or ""), tuple(map(_absolute, retrained)), task, settings, audit,
                    files())
    if model is not None:
        check_cells(common.model, task, settings, wanted)
    made = Grid(model=common.model, retrained=common.retrained, task=task.name, task_fingerprint=task.fingerprint,
                model_fingerprint="" if dry_run else load_subject(common.model).fingerprint, settings=settings,
                audit=audit, environment=environment())
    if dry_run:
        return with_cells(made, wanted)
    reads = [common.model, *retrained]
    refuse_output(out, resume=resume, overwrite=overwrite, reads=reads)
    if resume and not overwrite and out.is_dir() and any(out.iterdir()) and not (out / Grid.FILE).is_file():
        raise UsageError(f"{out} holds no grid to go on with.", f"There is no {Grid.FILE} in it. Nothing was changed.",
                         "Choose another --out.")
    made = with_cells(_resumed(made, out) if resume and not overwrite else made, wanted)
    prepare_output(out, resume=resume, overwrite=overwrite, reads=reads)
    task.write(RunFolder(out).rows)
    return _run_cells(made, common, {*wanted}, out, jobs, reporter)


def _go_on(out: Path, jobs: int, dry_run: bool, reporter: Reporter) -> Grid:
    """Run what is not finished of the grid in a folder, with the rows and settings that it holds."""
    if not (out / Grid.FILE).is_file():
        raise UsageError(f"{out} holds no grid to go on with.", f"There is no {Grid.FILE} in it. Nothing was changed.",
                         "Give --methods to begin one, or the folder that --out named.")
    made, task = Grid.read(out), remembered(out)
    if task is None:
        raise UsageError(f"{out} does not hold the rows of its grid.",
                         "They were purged, or an earlier version of expunge made it.",
                         "Give the whole command again, with --task or --forget FILE, and --resume.")
    if dry_run:
        return made
    if load_subject(made.model).fingerprint != made.model_fingerprint:
        raise UsageError(f"The model of this grid, {made.model}, has changed.", "Its fingerprint is another.",
                         "Begin a grid in another --out.")
    common = Common(out.resolve(), made.model, made.retrained, task, made.settings, made.audit, files())
    return _run_cells(made, common, {cell.key for cell in made.cells}, out, jobs, reporter)


def _run_cells(made: Grid, common: Common, wanted: Collection[CellKey], out: Path, jobs: int,
               reporter: Reporter) -> Grid:
    """Run the cells with these keys that are not finished, and save the grid after each."""
    _save(made, out)
    waiting = [c for c in made.cells if c.key in wanted and c.status != "finished"]
    tick = reporter.task(f"cells of {len({method for method, _, _ in wanted})} methods", len(wanted))
    tick(len(wanted) - len(waiting))
    try:
        for cell in _results(common, waiting, jobs):
            made = made.with_cell(cell)
            _save(made, out)
            tick(1, f"{cell.title}: {cell.failed or cell.verdict or cell.status}")
    except (KeyboardInterrupt, InterruptedRun) as problem:
        why = (problem.what,) if isinstance(problem, InterruptedRun) else ()
        raise interrupted(made, out, *why) from None
    finally:
        reporter.close()
    return made


def interrupted(made: Grid, out: Path, *why: str) -> InterruptedRun:
    """What is finished, what is not, and the command to go on."""
    plugins = "".join(f" --plugin {shlex.quote(str(path))}" for path in files())
    return InterruptedRun("The grid was interrupted.", "\n".join((*why, f"{made.counted()}.", *made.waiting())),
                          f"Go on with: {resume_grid(out)}{plugins}")


def recipes_of(methods: str | Sequence[str]) -> tuple[str, ...]:
    """Recipes, each once: those given, and those that stand by commas in one of them."""
    given = [methods] if isinstance(methods, str) else list(methods)
    found = tuple(dict.fromkeys(recipe for text in given for recipe in split_at_commas(text)))
    if not found:
        raise UsageError("A grid needs methods.", fix='Give --methods "npo + retain_nll" --methods ga, for instance.')
    return found


def rates_of(given: float | str | Sequence[float | str]) -> tuple[float | None, ...]:
    """Learning rates, each once; (None,) where none is given: that of each recipe."""
    values = [given] if isinstance(given, str | float | int) else list(given)
    words = [word for value in values for word in (value.split(",") if isinstance(value, str) else [value])]
    try:
        rates = [float(word) for word in words]
    except ValueError:
        raise UsageError(f"--lr {', '.join(map(str, words))}: a learning rate is a number.",
                         fix="Give --lr 1e-4 --lr 3e-4, for instance.") from None
    checked = [RunSettings(lr=rate).lr for rate in rates]
    return tuple(dict.fromkeys(checked)) or (None,)


def seeds_of(given: int | str | Sequence[int]) -> tuple[int, ...]:
    """Seeds, each once: 3 means 0, 1 and 2; "5,7" means these two."""
    try:
        numbers = [int(word) for word in given.split(",")] if isinstance(given, str) else given
    except ValueError:
        raise UsageError(f"--seeds {given} is not a number of seeds.", fix="Give 3, or the seeds: 0,1,5.") from None
    if isinstance(numbers, int) or (isinstance(given, str) and "," not in given):
        numbers = range(numbers if isinstance(numbers, int) else numbers[0])
    if not numbers:
        raise UsageError("A grid needs at least one seed.", fix="Give 3, or the seeds: 0,1,5.")
    return tuple(dict.fromkeys(numbers))


def takes_rate(method: str, depth: int = 4) -> bool:
    """Whether a learning rate changes the recipe: some stage trains, and none names a rate of its own."""
    named = re.search(r"\blr\s*=", method) is not None
    return not named and any(stage.objective is not None for stage in parse(method, depth))


def with_cells(made: Grid, wanted: Iterable[tuple[str, float | None, int]]) -> Grid:
    """The grid with a cell for each of these; cells that it has already stay as they are."""
    cells = {cell.key: cell for cell in made.cells}
    taken = {cell.folder for cell in made.cells}
    for method, rate, seed in wanted:
        if (method, rate, seed) not in cells:
            name = folder_name(method, rate, seed)
            free = next(n for i in range(len(taken) + 1) if (n := f"{name}_{i + 1}" if i else name) not in taken)
            taken.add(free)
            cells[method, rate, seed] = GridCell(method=method, lr=rate, seed=seed, folder=free)
    return made.model_copy(update={"cells": tuple(cells.values())})


def folder_name(method: str, rate: float | None, seed: int) -> str:
    """Readable, and a name that every file system takes."""
    plain = re.sub(r"[^A-Za-z0-9_.]+", "-", method).strip("-.")[:60]
    return plain + ("" if rate is None else f"_lr{rate:g}") + f"_seed{seed}"


def check_on_new_model(task: Task, settings: RunSettings, wanted: Iterable[tuple[str, float | None, int]]) -> None:
    """`check_cells` on a model without training, of the size that `trained_world` trains."""
    with tempfile.TemporaryDirectory() as place:
        build_for(config_from(WORLD_SIZE), task).save(Path(place))
        check_cells(place, task, settings, wanted)


def check_cells(model: str, task: Task, settings: RunSettings,
                wanted: Iterable[tuple[str, float | None, int]]) -> None:
    """Plan every recipe at every learning rate.

    Raises:
        PreflightError: all that cannot work, each with its recipe.
    """
    problems: dict[str, ExpungeError] = {}
    for method, rate in dict.fromkeys((method, rate) for method, rate, _ in wanted):
        try:
            api.forget(model, method=method, task=task, out="unused", dry_run=True,
                       settings=RunSettings.build(settings, lr=rate))
        except PreflightError as refused:
            for p in refused.problems:  # once, however many learning rates meet it
                problems.setdefault(f"{method}: {p.what}", ExpungeError(f"{method}: {p.what}", p.why, p.fix))
    if problems:
        raise PreflightError(problems.values())


def forget_and_audit(model: str | Path, task: Task, method: str, place: Path, *, retrained: Sequence[str | Path],
                     settings: RunSettings, audit: AuditSettings) -> tuple[RunRecord, Audit]:
    """One run and its audit in a folder; goes on where an earlier call stopped."""
    quiet = Reporter(quiet=True)
    record = api.forget(model, task=task, method=method, out=place, settings=settings, resume=place.exists(),
                        reporter=quiet)
    found = api.audit(place, task=task, original=model, retrained=retrained, settings=audit,
                      resume=RunFolder(place).audit.exists(), reporter=quiet)
    assert isinstance(record, RunRecord) and isinstance(found, Audit)
    return record, found


def failure(problem: Exception) -> str:
    """What went wrong in a cell or a trial, in one sentence."""
    return problem.what if isinstance(problem, ExpungeError) else first_line(problem)


def carry_out(common: Common, cell: GridCell) -> GridCell:
    """Run and audit one cell; what goes wrong is a finding of this cell, not the end of the others."""
    for path in common.plugins:
        add_file(path)
    began, place = time.perf_counter(), common.out / cell.folder
    if place.exists() and not RunFolder(place).record.exists():
        shutil.rmtree(place)  # killed before there was a run to go on with
    try:
        record, found = forget_and_audit(
            common.model, common.task, cell.method, place, retrained=common.retrained, audit=common.audit,
            settings=RunSettings.build(common.settings, lr=cell.lr, seed=cell.seed))
    except InterruptedRun:
        raise
    except Exception as problem:  # it diverged, memory ran out, a plug-in is broken
        return cell.model_copy(update={"status": "failed", "failed": failure(problem)})
    return cell.model_copy(update={
        "status": "finished", "failed": "", "verdict": found.verdict.outcome if found.verdict else "",
        "scores": {s.name: s.value for s in found.scores if s.attack is None},
        "train_s": record.timing.get("train_s", 0.0), "steps": int(record.timing.get("steps", 0)),
        "total_s": round(time.perf_counter() - began, 2), "peak_memory_bytes": record.peak_memory_bytes})


def _results(common: Common, cells: Sequence[GridCell], jobs: int) -> Iterator[GridCell]:
    """Cells as they finish: here one after the other, or in processes that share the cores."""
    if jobs == 1 or len(cells) < 2:
        yield from (carry_out(common, cell) for cell in cells)
        return
    import joblib
    from joblib.externals.loky.process_executor import TerminatedWorkerError

    from expunge.cli.threads import available_cores

    jobs = min(jobs, len(cells))
    threads = max(available_cores() // jobs, 1)
    with joblib.parallel_config(backend="loky", inner_max_num_threads=threads):
        pool = joblib.Parallel(n_jobs=jobs, return_as="generator_unordered", pre_dispatch=jobs, batch_size=1)
        try:
            yield from pool(joblib.delayed(_in_process)(common, cell, os.getpid()) for cell in cells)
        except TerminatedWorkerError as problem:
            raise InterruptedRun("A process of the grid was killed; its memory may have run out.",
                                 "Finished cells are kept.", "Go on with --resume, and with fewer --jobs.") from problem


def _in_process(common: Common, cell: GridCell, parent: int) -> GridCell:
    """`carry_out` in a process of a pool; several accelerators are dealt out in turn."""
    import multiprocessing

    import torch

    end_with(parent)
    if torch.cuda.device_count() > 1:
        number = re.search(r"(\d+)$", multiprocessing.current_process().name)
        torch.cuda.set_device(int(number[1]) % torch.cuda.device_count() if number else 0)
    return carry_out(common, cell)


@cache
def end_with(parent: int) -> None:
    """End this process soon after its parent was killed: a grid that goes on must not meet another at work in its
    folders."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _resumed(fresh: Grid, out: Path) -> Grid:
    """The grid with the cells that an earlier call left in the folder."""
    if not (out / Grid.FILE).exists():
        return fresh
    before = Grid.read(out)
    check_same("The grid in this folder was", before, fresh,
               ("model_fingerprint", "retrained", "task_fingerprint", "settings", "audit"))
    return fresh.model_copy(update={"cells": before.cells})


def _save(made: Grid, out: Path) -> None:
    made.write(out / Grid.FILE)
    write_text(out / "grid.csv", made.csv())


def _absolute(place: str | Path) -> str:
    """A folder by its full path, since processes and later calls may stand elsewhere; a hub name as it is."""
    return str(Path(place).resolve()) if Path(place).exists() else str(place)


__all__ = ["grid"]
