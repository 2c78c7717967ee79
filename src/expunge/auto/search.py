"""The search: trials on the real rows, asked round by round; the best are rehearsed; one is chosen."""

from __future__ import annotations

import shutil
import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from expunge import api, processes
from expunge.auto.portfolio import PORTFOLIO, OpenRecipe, check_portfolio, space_of
from expunge.auto.portfolio import middle as middle_of
from expunge.auto.readings import ROUNDS, of_both, readings
from expunge.auto.rehearsal import Rehearsal, make_rehearsal, rehearse
from expunge.console import Reporter
from expunge.data.model_config import depth_of
from expunge.errors import ExpungeError, InterruptedRun, UsageError
from expunge.grids import failure
from expunge.metrics.risk_bound import upper_bound
from expunge.models.load import load_subject, read_config
from expunge.output import check_same
from expunge.records.choice import AutoSettings, AutoTrial, Choice, Rehearsed, seconds_of
from expunge.records.run import RunRecord, environment
from expunge.records.settings import RunSettings
from expunge.records.task import Task
from expunge.seeding import derive
from expunge.tuning import optuna_or_why

FINALISTS = 3
"""Settings that are rehearsed at most."""
MOST_TRIALS = 60
QUIET = Reporter(quiet=True)


def choose(model: str | Path, task: Task, out: Path, *, settings: RunSettings, auto: AutoSettings,
           portfolio: tuple[OpenRecipe, ...] = PORTFOLIO, most: int = MOST_TRIALS, resume: bool = False,
           reporter: Reporter = QUIET) -> Choice:
    """Find a recipe within a time, from forget, retain and holdout rows alone.

    Args:
        model: what must forget; when `expunge train` made it, its learning rate and its time guide the search.
        out: folder of the search. `choice.json` in it grows trial by trial.
        portfolio: recipes with their open options.
        most: trials at most.
        resume: go on in `out` with what an interrupted search left.

    Raises:
        UsageError: there are no holdout or retain rows, --lr is given, or the model does not know the forget rows.
    """
    check_request(task, settings)
    check_portfolio(portfolio, depth_of(read_config(model)) or 4)
    past = history(model, task)
    made = Choice(settings=auto, run_settings=settings.model_dump(mode="json"),
                  portfolio={entry.name: entry.recipe for entry in portfolio},
                  model_fingerprint=load_subject(model).fingerprint, task=task.name, task_fingerprint=task.fingerprint,
                  seed=settings.seed, environment=environment(), budget_s=seconds_of(auto.budget, past.seconds),
                  retraining_s=past.seconds)
    search = _Search(model, task, out, settings, auto, portfolio, past, reporter)
    warn_of_few(task, auto, reporter)
    made = search.begin(made, resume)
    if made.chosen is not None:
        return made
    made, rehearsal = search.prepare(made)
    made = search.try_all(made, most)
    made = search.rehearse_best(made, rehearsal)
    return search.finish(made)


def check_request(task: Task, settings: RunSettings) -> None:
    """Raises UsageError for what a search cannot work with."""
    processes.refuse_several("A search for a recipe")
    if settings.lr is not None:
        raise UsageError("--method auto takes no learning rate.", "It searches one for each recipe.",
                         "Leave --lr out, or name a recipe with --method.")
    for split, why in (("holdout", "They show how the model answers rows that it never saw."),
                       ("retain", "They show what the model should keep.")):
        if not task.split(split):  # type: ignore[arg-type]
            raise UsageError(f"--method auto needs {split} rows.", why, f"Give --{split} FILE.")


def warn_of_few(task: Task, auto: AutoSettings, reporter: Reporter) -> None:
    """Say so where there are too few entities for any setting to meet the limit."""
    entities = len({row.entity or row.id for row in task.forget})
    least = upper_bound([0.0] * entities, of_both(auto.confidence))
    if least > auto.risk:
        reporter.warn(f"With {entities} entities to forget no upper bound lies below {least:.2f}, so no setting can "
                      f"meet --risk {auto.risk:g}: the best by score will be taken.")


@dataclass(frozen=True)
class Past:
    """How the model was trained, and what it would take without the forget rows; None where that is not known."""

    rate: float | None = None
    passes: float | None = None
    seconds: float | None = None


def history(model: str | Path, task: Task) -> Past:
    """Read off the record of the training."""
    place = Path(model) / RunRecord.FILE
    record = RunRecord.read(place) if place.exists() else None
    if record is None or record.kind != "train":
        return Past()
    stage: dict[str, Any] = next(iter(record.recipe_full.values()), {})
    rate = next((options.get("lr") for options in stage.values() if isinstance(options, dict) and options.get("lr")),
                None)
    seconds, rows = record.timing.get("train_s"), task.training_rows("full")
    share = len(task.training_rows("retain")) / len(rows) if rows else 1.0
    return Past(float(rate) if rate else None, getattr(record.settings, "epochs", None),
                seconds * share if seconds else None)


class _Search:
    """What every step of the search needs."""

    def __init__(self, model: str | Path, task: Task, out: Path, settings: RunSettings, auto: AutoSettings,
                 portfolio: tuple[OpenRecipe, ...], past: Past, reporter: Reporter) -> None:
        self.model, self.task, self.out, self.settings, self.auto = model, task, out, settings, auto
        self.portfolio, self.reporter = {entry.name: entry for entry in portfolio}, reporter
        self.spaces = {entry.name: space_of(entry, past.rate, past.passes, auto.cost or 1.0) for entry in portfolio}
        self.rate, self.rounds = past.rate, ROUNDS[auto.against]
        self._began, self._before = time.monotonic(), 0.0

    def begin(self, made: Choice, resume: bool) -> Choice:
        """The record, with what an interrupted search left."""
        self.out.mkdir(parents=True, exist_ok=True)
        place = self.out / Choice.FILE
        if place.exists() and resume:
            before = Choice.read(place)
            check_same("The search in this folder was", before, made,
                       ("run_settings", "portfolio", "task_fingerprint", "model_fingerprint", "seed"))
            # A longer budget may be given to go on.
            made = before.model_copy(update={"settings": made.settings, "budget_s": made.budget_s,
                                             "ended": "" if made.budget_s > before.budget_s else before.ended})
        shutil.rmtree(self.out / "trial", ignore_errors=True)
        self._before = made.spent_s
        return self._saved(made)

    def spent(self) -> float:
        return self._before + time.monotonic() - self._began

    def left(self, made: Choice) -> float:
        return made.budget_s - self.spent()

    def _minutes(self, made: Choice) -> str:
        return f"{max(self.left(made), 0) / 60:.1f} min left"

    def _saved(self, made: Choice, **changes: Any) -> Choice:
        made = made.model_copy(update={**changes, "spent_s": round(self.spent(), 1)})
        made.write(self.out / Choice.FILE)
        return made

    def prepare(self, made: Choice) -> tuple[Choice, Rehearsal | None]:
        """Teach the scratch copy, whose time is then known."""
        found = make_rehearsal(self.model, self.task, self.settings, self.rate, self.out / "rehearsal", self.reporter)
        if isinstance(found, str):
            self.reporter.warn(f"There is no rehearsal. {found}")
            return self._saved(made, rehearsal={"none": found}), None
        return self._saved(made, rehearsal=found.told), found

    def try_all(self, made: Choice, most: int) -> Choice:
        """Trials until the budget is needed for the rest: the rehearsals and the run itself."""
        tick = self.reporter.task("trials", most)
        tick(len(made.trials), self._minutes(made))
        while len(made.trials) < most and not made.ended:
            took = [t.total_s for t in made.trials]
            full = [t.total_s for t in made.complete]
            rehearsals = min(len(full) + 1, FINALISTS)
            if took and self.left(made) < statistics.median(took) + (rehearsals + 1) * max(full, default=max(took)):
                made = self._saved(made, ended="budget")
                break
            name, params = self._next(made)
            made = self._saved(made, trials=(*made.trials, self._try(made, name, params)))
            best = made.complete[0] if made.complete else None
            told = f"best so far {best.score:.2f} ({best.name})" if best else "none complete yet"
            tick(1, f"{told}; {self._minutes(made)}")
        return self._saved(made, ended=made.ended or "trials")

    def _next(self, made: Choice) -> tuple[str, dict[str, Any]]:
        """Each recipe once at the middle of its space, then what TPE draws from everything tried so far."""
        tried = {t.name for t in made.trials}
        for name in self.portfolio:
            if name not in tried:
                return name, middle_of(self.spaces[name])
        asked = self._study(made).ask()
        name = str(asked.suggest_categorical("recipe", list(self.portfolio)))
        drawn: dict[str, Any] = {}
        for option, (kind, *values) in self.spaces[name].items():
            key = f"{name}.{option}"
            drawn[option] = asked.suggest_categorical(key, values) if kind == "choice" else float(
                f"{asked.suggest_float(key, *values, log=True):.3g}")
        return name, drawn

    def _study(self, made: Choice) -> Any:
        """The trials so far as optuna holds them; the next draw follows from them, also after an interruption."""
        optuna = optuna_or_why()
        study = optuna.create_study(
            sampler=optuna.samplers.TPESampler(seed=derive(made.seed, "auto", len(made.trials)) % 2**32,
                                               n_startup_trials=len(self.portfolio)))
        distributions = optuna.distributions
        for trial in made.trials:
            found = {"recipe": distributions.CategoricalDistribution(list(self.portfolio))}
            values: dict[str, Any] = {"recipe": trial.name}
            for option, (kind, *about) in self.spaces[trial.name].items():
                key = f"{trial.name}.{option}"
                values[key] = trial.params[option]
                # Drawn values are rounded to three digits, which may step over an end.
                found[key] = distributions.CategoricalDistribution(about) if kind == "choice" else \
                    distributions.FloatDistribution(about[0] * 0.995, about[1] * 1.005, log=True)
            states = optuna.trial.TrialState
            state = states.FAIL if trial.failed else states.PRUNED if trial.stopped else states.COMPLETE
            study.add_trial(optuna.trial.create_trial(
                params=values, distributions=found, state=state, value=trial.score,
                intermediate_values=dict(enumerate(trial.reports))))
        return study

    def _try(self, made: Choice, name: str, params: Mapping[str, Any]) -> AutoTrial:
        """One run, asked round by round while it can be a finalist."""
        began, place = time.perf_counter(), self.out / "trial"
        shutil.rmtree(place, ignore_errors=True)
        trial = AutoTrial(number=len(made.trials), name=name, params=dict(params), epochs=self.settings.epochs,
                          recipe=self.portfolio[name].filled(params))
        try:
            record = api.forget(self.model, task=self.task, method=trial.recipe, out=place, settings=self.settings,
                                reporter=QUIET)
            assert isinstance(record, RunRecord)
            seconds = record.timing.get("train_s", 0.0)
            trial = trial.model_copy(update={"train_s": seconds, "cost": record.timing.get("of_retraining")})
            if self.too_dear(trial):
                return self._ended(trial, began, failed=f"it costs {trial.cost:.2f} of retraining, and "
                                                        f"{self.auto.cost:g} is the limit")
            asked: list[str] = []
            for number, terms in enumerate(self.rounds, 1):
                asked += terms
                found = api.audit(place, task=self.task, original=self.model, suite=",".join(asked),
                                  seed=self.settings.seed, resume=number > 1, resamples=0, reporter=QUIET)
                assert not isinstance(found, dict)
                read = readings(found, place)
                trial = trial.model_copy(update={
                    "residues": {k: round(v, 4) for k, v in read.residues.items()},
                    "kept": None if read.kept is None else round(read.kept, 4),
                    "reports": (*trial.reports, round(read.score(self.auto.utility), 4)),
                    "fingerprint": found.subject.fingerprint})
                if number < len(self.rounds) and self._out_of_reach(made, trial):
                    trial = trial.model_copy(update={"stopped": True})
                    break
            else:
                risk, loss = read.bounds(self.auto.confidence)
                trial = trial.model_copy(update={"risk_bound": round(risk, 4), "loss_bound": round(loss, 4)})
        except (InterruptedRun, UsageError):
            raise
        except (ExpungeError, RuntimeError) as problem:  # it diverged, or memory ran out: a finding, not the end
            trial = trial.model_copy(update={"failed": failure(problem)})
        return self._ended(trial, began)

    def _ended(self, trial: AutoTrial, began: float, **found: Any) -> AutoTrial:
        shutil.rmtree(self.out / "trial", ignore_errors=True)
        return trial.model_copy(update={"total_s": round(time.perf_counter() - began, 2), **found})

    def too_dear(self, trial: AutoTrial) -> bool:
        """Whether it costs more than the limit; where its cost is not known it does not."""
        return self.auto.cost is not None and trial.cost is not None and trial.cost > self.auto.cost

    def _out_of_reach(self, made: Choice, trial: AutoTrial) -> bool:
        """Whether the trial can be none of the finalists any more: later rounds only add conditions, so that its score
        can only rise."""
        final = [t.score for t in made.complete if t.score is not None]
        return len(final) >= FINALISTS and trial.reports[-1] >= final[FINALISTS - 1]

    def within(self, trial: AutoTrial) -> bool:
        """Whether both upper bounds meet the limits."""
        return (trial.risk_bound is not None and trial.loss_bound is not None and trial.risk_bound <= self.auto.risk
                and trial.loss_bound <= 1 - self.auto.utility)

    def ranked(self, made: Choice) -> list[AutoTrial]:
        """Those within the limits, the cheapest first; then the others by their score."""
        inside = sorted((t for t in made.complete if self.within(t)), key=lambda t: t.train_s)
        return inside + [t for t in made.complete if not self.within(t)]

    def rehearse_best(self, made: Choice, rehearsal: Rehearsal | None) -> Choice:
        """Rehearse in order until one is said to forget."""
        if rehearsal is None:
            return made
        suite = ",".join(dict.fromkeys(("forget_quality", "leak_share", *(t for r in self.rounds for t in r))))
        known = {r.number for r in made.rehearsed}
        for trial in self.ranked(made)[:FINALISTS]:
            if any(r.outcome == "forgets" for r in made.rehearsed):
                break
            if trial.number in known:
                continue
            if self.left(made) < trial.total_s + trial.train_s:  # a run, its audit, and the run that is handed out
                break
            began, place = time.perf_counter(), self.out / "rehearsal" / f"trial-{trial.number}"
            self.reporter.note(f"Rehearsal of trial {trial.number}: {trial.recipe}")
            outcome, read = rehearse(rehearsal, trial.recipe, self.settings, suite, place)
            worst = max(read.residues, key=lambda n: read.residues[n])
            made = self._saved(made, rehearsed=(*made.rehearsed, Rehearsed(
                number=trial.number, outcome=outcome, worst=worst, residue=round(read.residues[worst], 4),
                kept=read.kept, seconds=round(time.perf_counter() - began, 1))))
            shutil.rmtree(place, ignore_errors=True)
        return made

    def finish(self, made: Choice) -> Choice:
        """Choose, and say why."""
        ranked = self.ranked(made)
        if not ranked:
            failed = next((t.failed for t in made.trials if t.failed), "the budget ended before one was complete")
            raise UsageError("No trial was completed, so no recipe can be chosen.", f"Of the trials: {failed}.",
                             "Give a longer --budget, with --resume.")
        passed = {r.number for r in made.rehearsed if r.outcome == "forgets"}
        pick = next((t for t in ranked if t.number in passed), ranked[0])
        inside = self.within(pick)
        shutil.rmtree(self.out / "rehearsal", ignore_errors=True)
        where, most = pick.worst
        left = f"{most:.2f} of the way back is left {'as asked' if not where else 'under ' + where}"
        reason = (f"the cheapest of {sum(map(self.within, ranked))} settings within both limits; {left}" if inside else
                  f"no setting is within both limits (left at most {self.auto.risk:g}, utility {self.auto.utility:g}, "
                  f"confidence {self.auto.confidence:g}); this one has the best score: {left}, bound "
                  f"{pick.risk_bound:.2f}, {pick.kept or 0:.3f} of utility kept")
        return self._saved(made, chosen=pick.number, within_limits=inside, reason=reason)


__all__ = ["Past", "choose", "history"]
