"""An audit on the terminal: the scores, what attacks brought out, and the verdict in words; and shadow models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from expunge.console import Reporter, format_number
from expunge.records.leak import control, leaks, shows_knowledge
from expunge.records.score import Audit, Score
from expunge.records.shadows import Shadows

FEW = 12
"""Rows under attack that are all shown; of more, those that succeeded."""


def show_audit(found: Audit, reporter: Reporter) -> None:
    """The tables, then the verdict in words."""
    show_scores(found.scores, reporter)
    if found.verdict:
        alone = f" (without the attacks: {found.verdict.alone})" if found.verdict.alone else ""
        reporter.out.print(f"\nVerdict: {found.verdict.outcome}{alone}", markup=False)
        for threat in found.verdict.threats:
            reporter.out.print(f"  {threat.access + ':':<10} {threat.outcome}. {threat.sentence}", markup=False,
                               soft_wrap=True)
        for sentence in found.verdict.sentences:
            reporter.out.print(f"  {sentence}", markup=False, soft_wrap=True)


def show_scores(scores: Sequence[Score], reporter: Reporter) -> None:
    """Value, interval and controls of every score; what is missing says why."""
    reporter.close()
    plain = [s for s in scores if s.attack is None]
    reporter.table("", ["score", "value", "95 % interval", "original", "retrained", "n"],
                   [[s.name, s.value, _between(s.interval), s.controls.get("original"), s.controls.get("retrained"),
                     s.n] for s in plain if s.value is not None])
    for score in plain:
        if score.value is None:
            _dim(f"{score.name}: not available, {score.unavailable}", reporter)
    attacked = [s for s in scores if s.attack is not None]
    if attacked:
        _show_attacked(attacked, reporter)


def _show_attacked(scores: Sequence[Score], reporter: Reporter) -> None:
    found = [s for s in scores if s.value is not None]
    won = leaks(scores)
    tried = [s for s in found if shows_knowledge(s)]
    shown = found if len(found) <= FEW else won
    if shown:
        reporter.out.print()
        reporter.table("under attack", ["attack", "score", "before", "value", "control", "excess", "95 % interval"],
                       [[s.attack or "", s.name, s.before, s.value, (control(s) or ("", None))[1], s.excess,
                         _between(s.excess_interval) + " *" * (s in won)] for s in shown])
    if found:
        _dim(f"{len(won)} of {len(tried)} comparisons brought out more than of the control and than plain asking"
             + (" (*)." if won else ".")
             + (f" The {len(found) - len(shown)} rows not shown are in audit.json." if len(shown) < len(found) else ""),
             reporter)
    for line in dict.fromkeys(f"{s.attack}: not available, {s.unavailable}" for s in scores if s.value is None):
        _dim(line, reporter)


def _between(interval: tuple[float, float] | None) -> str:
    return "-" if interval is None else " .. ".join(format_number(x) for x in interval)


def _dim(text: str, reporter: Reporter) -> None:
    reporter.out.print(text, style="dim", markup=False, soft_wrap=True)


def show_shadows(found: Shadows, reporter: Reporter) -> None:
    """One line per kind of model; the floor stands among them."""

    def of(name: str, measure: str, key: str) -> Any:
        return found.results[name][measure].get(key)

    said = {"original": "nothing done", "retrained": "retrained (floor)"}
    columns = {"U-LiRA": ("ulira", "accuracy"), "AUC": ("ulira", "auc"), "worst 5 %": ("ulira", "worst"),
               "population": ("population", "accuracy"), "kept rows": ("ulira_kept", "accuracy"),
               "KLoM": ("klom", "mean"), "KLoM kept": ("klom_kept", "mean"), "F": ("epsilon", "F")}
    rows = [[said.get(name, name), *(of(name, *where) for where in columns.values()),
             (of(name, "ulira", "tpr") or {}).get("0.01")] for name in found.results]
    reporter.table("", ["models", *columns, "TPR at 1 %"], rows)
    for measure, result in found.results["original"].items():
        if "unavailable" in result:
            _dim(f"{measure}: not available, {result['unavailable']}", reporter)
    reporter.out.print(f"\n{len(found.states)} shadows, {found.points} rows each. A number means something beside the "
                       "floor only: what models that all never met a person give.", soft_wrap=True)
