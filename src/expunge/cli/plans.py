"""What a command will do, what it did and what to type next, on the terminal."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from expunge.cli.showing import shown_path
from expunge.console import Reporter
from expunge.records.run import RunRecord
from expunge.records.shadows import Shadows
from expunge.records.study import Study
from expunge.records.sweep import Sweep

if TYPE_CHECKING:
    from expunge.methods.plan import Plan

UNKNOWN = 0.01
"""Mean probability of the answers, per token, below which the model cannot be said to know them."""


def show_plan(plan: Plan, reporter: Reporter) -> None:
    """A plan as lines to read; `--json` gives all of it."""
    lines = [("recipe", plan.recipe)]
    for number, stage in enumerate(plan.stages, 1):
        terms = " + ".join(f"{name}({', '.join(f'{k}={v}' for k, v in options.items() if v is not None)})"
                           for name, options in stage.items())
        lines.append(("in full" if len(plan.stages) == 1 else f"stage {number}", terms.replace("()", "")))
    lines.append(("rows", ", ".join(f"{split} {count}" for split, count in plan.rows.items() if count)))
    lines.append(("steps", ", then ".join(f"{steps}, with a reading every {every}" if steps else "none of its own"
                                          for steps, every in zip(plan.steps, plan.eval_every, strict=True))))
    lines += [("reference", ", then ".join(plan.reference)), ("prompt", plan.prompt.format)]
    lines += [("first row", repr(plan.prompt.first_row)), ("", "(supervised in [[ ]])")]
    lines += [("cut rows", str(plan.truncated))] if plan.truncated else []
    lines += [("note", note) for note in (*plan.prompt.notes, *plan.notes)]
    lines += [("warning", warning) for warning in plan.prompt.warnings]
    _show(lines, reporter)


def show_audit_plan(plan: Mapping[str, Any], reporter: Reporter) -> None:
    """The plan of an audit as lines to read."""
    prompt = plan["prompt"]
    lines = [("terms", ", ".join(plan["terms"])), ("asks", "\n".join(plan["observations"]))]
    lines += [("attack", f"{attack}: {cost}") for attack, cost in plan["attacks"].items()]
    lines += [("prompt", prompt["format"]), ("first row", repr(prompt["first_row"])), ("", "(supervised in [[ ]])")]
    lines += [("note", note) for note in (*prompt["notes"], *plan["notes"])]
    lines += [("warning", warning) for warning in prompt["warnings"]]
    _show(lines, reporter)


SPACES = {"log": "{} to {}, on a log scale", "uniform": "{} to {}", "choice": "one of {}"}


def show_sweep_plan(plan: Sweep, trials: int, reporter: Reporter) -> None:
    """What a search will draw, as lines to read."""
    lines = [("recipe", plan.recipe), ("trials", str(trials)), ("scored by", plan.settings["suite"])]
    for option, (kind, *values) in plan.space.items():
        words = [f"{v:g}" if isinstance(v, float) else str(v) for v in values]
        shown = SPACES[kind].format(*([", ".join(words)] if kind == "choice" else words))
        lines.append(("searched", f"{option}: {shown}"))
    _show([*lines, ("rows of", plan.task), ("seed", str(plan.seed))], reporter)


def show_shadows_plan(plan: Shadows, reporter: Reporter) -> None:
    """What shadow models will be made, as lines to read."""
    entities = len(plan.states[0]) if plan.states else 0
    dealt = ", ".join(f"{n} {state}" for state, n in Counter(plan.states[0].values()).items()) if entities else "none"
    _show([("recipes", "\n".join(plan.methods)), ("model", plan.model),
           ("shadows", f"{len(plan.states)}, each with an original and a retrained twin: {plan.trainings} runs in all"),
           ("entities", f"{entities}, in each shadow {dealt}"), ("rows", f"{plan.points} asked of every model"),
           ("training", f"{plan.settings['trainer']}, {plan.settings['train_epochs']:g} epochs"),
           ("rows of", plan.task), ("seed", str(plan.seed))], reporter)


def show_study_plan(plan: Study, reporter: Reporter) -> None:
    """What a study will measure, as lines to read."""
    settings = ", ".join(f"{k} {v}" for k, v in plan.settings.items() if v is not None)
    parts = [*plan.planned[:5], "..."] if len(plan.planned) > 6 else plan.planned
    _show([("study", plan.name), ("parts", f"{len(plan.planned)}: " + "; ".join(parts)),
           ("model", plan.model or "of its own"), ("settings", settings), ("rows of", plan.task)], reporter)


def _show(lines: Sequence[tuple[str, str]], reporter: Reporter) -> None:
    reporter.out.print("Nothing was run. This is the plan:", markup=False)
    for name, said in lines:
        first, *more = str(said).splitlines() or [""]
        reporter.out.print(f"  {name:<10} {first}", markup=False, soft_wrap=True)
        for line in more:
            reporter.out.print(f"  {'':<10} {line}", markup=False, soft_wrap=True)


def show_trained(record: RunRecord, out: Path, reporter: Reporter) -> None:
    """What a training ended with, and the command that makes its result forget."""
    reporter.note(f"{record.status}: {record.reason}. Weights in {out / 'model'}.")
    if getattr(record.settings, "split", "") == "full":
        exact = not record.recipe.startswith("retain_")
        method = record.recipe.partition("(")[0] if exact else "npo + retain_nll"
        reporter.note(f"Next: expunge forget {shown_path(out)} --task {shown_path(out)} --method {shlex.quote(method)} "
                      f"--out {shown_path(f'{out}-unlearned')}")


def show_forgotten(record: RunRecord, out: Path, reporter: Reporter) -> None:
    """What a run ended with, and the command that audits it."""
    kept = record.best.get("kept", {})
    words = ", ".join(f"{k} {v:.3g}" for k, v in kept.items() if isinstance(v, int | float))
    said = f"{record.status}: {record.reason}." + (f" Kept {words}." if words else "")
    reporter.note(f"{said} Weights in {out / 'model'}.")
    start, rule = record.best.get("start") or {}, str(record.best.get("rule", ""))
    if rule.startswith("highest utility"):
        reporter.warn(f"The kept weights have the {rule} ({start['utility']:.3g}): try a smaller --lr or a stronger "
                      "retain term.")
    first = (record.stages[0].get("best") or {}).get("start") or {} if record.stages else start
    if first.get("forget", 1.0) < UNKNOWN:
        reporter.warn(f"The model gave the answers of the forget rows a probability of {first['forget']:.2g} before "
                      "the run: it did not know them, so there was nothing to forget. Is it the model that was trained "
                      "on them, and the prompt format that of its training?")
    elif {"forget"} <= {*kept} & {*start} and kept["forget"] > 0.95 * start["forget"]:
        reporter.warn(f"The forget rows are still known ({start['forget']:.3g} to {kept['forget']:.3g}): try a larger "
                      "--lr or more steps.")
    if not kept:  # an edit, a guard or an exact method says in its own words what it did
        plain = [f"{k} {v:.4g}" for k, v in record.best.items() if isinstance(v, int | float)]
        reporter.note("  " + ", ".join(plain[:8]) + ("; more in record.json" if plain else ""))
    if (out / "model" / "adapter_config.json").exists():
        reporter.note(f"These weights are an adapter: {Path(record.model).name}, which they sit on, still knows the "
                      f"rows. Hand out whole weights: expunge merge {shown_path(out)}")
    reporter.note(f"Next: expunge audit {shown_path(out)}")

