"""An audit on the terminal: the scores, what attacks brought out, and the verdict in words; and shadow models."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from expunge.console import Reporter, format_number
from expunge.judgement.leaks import MIN_ROWS, compared, control, doubt, strength, tried
from expunge.records.score import Audit, Score, Verdict
from expunge.records.shadows import Shadows

FEW = 12
"""Rows under attack that are shown; of more, those that succeeded and then the strongest."""


def show_audit(found: Audit, reporter: Reporter) -> None:
    """The tables, then the verdict in words."""
    show_scores(found.scores, reporter)
    if found.verdict:
        _show_verdict(found.verdict, reporter)


def show_rescored(folder: Path, scores: Sequence[Score], reporter: Reporter) -> None:
    """The same of scores that were taken again from the rows in `folder`."""
    from expunge.judgement.verdict import verdict

    show_scores(scores, reporter)
    _show_verdict(verdict(scores, Audit.read(folder / "audit.json").attacks), reporter)


def _show_verdict(found: Verdict, reporter: Reporter) -> None:
    alone = f" (without the attacks: {found.alone})" if found.alone else ""
    reporter.out.print(f"\nVerdict: {found.outcome}{alone}", markup=False)
    for threat in found.threats:
        reporter.out.print(f"  {threat.access + ':':<10} {threat.outcome}. {threat.sentence}", markup=False,
                           soft_wrap=True)
    for sentence in found.sentences:
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
    against, tests = compared(scores), tried(scores)
    strongest = sorted(against, key=lambda s: (doubt(s, tests) is None, strength(s)), reverse=True)[:FEW]
    shown = found if len(found) <= FEW else strongest
    if shown:
        reporter.out.print()
        reporter.table("under attack" + (", strongest first" if shown is strongest else ""),
                       ["attack", "score", "before", "value", "control", "excess", "95 % interval", "success"],
                       [[s.attack or "", s.name, s.before, s.value, (control(s) or ("", None))[1], s.excess,
                         _between(s.excess_interval), (doubt(s, tests) or "*") if s in against else ""] for s in shown])
    if against:
        won = sum(doubt(s, tests) is None for s in against)
        _dim(f"{won} of {len(against)} comparisons succeeded{' (*)' * bool(won)}: more came out than of the control "
             "and than plain asking gives, beyond chance and by enough to matter.", reporter)
    elif found:
        _dim(f"Nothing was set against a control on {MIN_ROWS} rows or more.", reporter)
    if len(shown) < len(found):
        _dim(f"More on the page (expunge report) and in audit.json: {len(found) - len(shown)} rows.", reporter)
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
