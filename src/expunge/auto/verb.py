"""`forget` with method "auto": choose a recipe, then run it as any other."""

from __future__ import annotations

from pathlib import Path

from expunge import api
from expunge.auto.portfolio import PORTFOLIO, middle, space_of
from expunge.auto.search import check_request, choose
from expunge.console import Reporter
from expunge.methods.plan import Plan
from expunge.output import prepare_output, refuse_output
from expunge.records.choice import AUTO, AutoSettings, Choice
from expunge.records.run import RunRecord
from expunge.records.settings import RunSettings
from expunge.records.task import Task

FOLDER = AUTO
"""Where the search lies, in the folder of the run."""


def forget_auto(model: str | Path, task: Task, out: Path, *, settings: RunSettings, auto: AutoSettings, resume: bool,
                overwrite: bool, reporter: Reporter) -> RunRecord:
    """Search, then run what was chosen in `out`. The run is an ordinary one: its record names the recipe in full.

    Raises:
        UsageError: the folder cannot be used, or what `choose` raises.
    """
    check_request(task, settings)
    begun = (out / FOLDER / Choice.FILE).is_file()
    if not (resume and begun):
        refuse_output(out, resume=resume, overwrite=overwrite, reads=[model])
        prepare_output(out, resume=resume, overwrite=overwrite, reads=[model])
    made = choose(model, task, out / FOLDER, settings=settings, auto=auto, resume=resume, reporter=reporter)
    pick = made.pick
    assert pick is not None
    reporter.note(f"Chosen: {pick.recipe} ({made.reason}).")
    record = api.forget(model, task=task, method=pick.recipe, out=out, settings=settings, resume=True,
                        reporter=reporter)
    assert isinstance(record, RunRecord)
    return record


def plan_auto(model: str | Path, task: Task, settings: RunSettings, auto: AutoSettings) -> Plan:
    """The plan of the first recipe of the portfolio, with what the search would do in its notes."""
    check_request(task, settings)
    first = PORTFOLIO[0]
    plan = api.forget(model, task=task, method=first.filled(middle(space_of(first))), out="unused", dry_run=True,
                      settings=settings)
    assert isinstance(plan, Plan)
    names = ", ".join(entry.name for entry in PORTFOLIO)
    return plan.model_copy(update={"notes": (
        f"--method auto searches {len(PORTFOLIO)} recipes ({names}) for {auto.budget} against an attacker with access "
        f"to {auto.against}, and runs the one it chooses. This is the plan of the first.", *plan.notes)})


__all__ = ["FOLDER", "forget_auto", "plan_auto"]
