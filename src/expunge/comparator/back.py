"""What comes back: curves of relearning, and answers under it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from expunge.comparator.models import ComparedModel, by_role, short
from expunge.comparator.rows import RowTable, TextPool
from expunge.errors import ExpungeError
from expunge.records.base import read_jsonl
from expunge.records.score import Audit, Score
from expunge.report.attacks import BARE
from expunge.report.gather import AttackFolder, finite
from expunge.terms import parse_sum

RELEARN = "relearn"


def steps_of(label: str) -> tuple[str, float] | None:
    """(the attack without its steps, its steps) of a label of relearning; None of another attack or of a sum."""
    try:
        stages = parse_sum(label)
    except ExpungeError:
        return None
    calls = [call for stage in stages for call in stage]
    if len(calls) != 1 or calls[0].name != RELEARN:
        return None
    options = dict(calls[0].options)
    steps = options.pop("steps", BARE[RELEARN, "steps"])
    options.pop("at", None)
    named = ", ".join(f"{k}={v}" for k, v in options.items())
    return f"{RELEARN}({named})" if named else RELEARN, float(steps)


def curves(models: Sequence[ComparedModel]) -> dict[str, dict[str, dict[str, list[list[float | None]]]]]:
    """Score -> attack -> model -> points (steps, value, low, high); the first is the value before relearning."""
    made: dict[str, dict[str, dict[str, list[list[float | None]]]]] = {}
    for model in (m for m in models if m.kind == "run" and m.view.audit is not None):
        beside = by_role(models, model.view).get("retrained")
        for name, attack, steps, score in _scores(model.view.audit):
            lines = made.setdefault(name, {}).setdefault(attack, {})
            _add(lines.setdefault(model.key, []), steps, score.value, score.before, score.interval)
            if beside is not None and score.controls.get("retrained") is not None:
                _add(lines.setdefault(beside.key, []), steps, score.controls["retrained"], score.control_before, None)
    for lines in (lines for by in made.values() for lines in by.values()):
        for points in lines.values():
            points.sort(key=lambda p: p[0] or 0)
    return made


def _scores(audit: Audit | None) -> list[tuple[str, str, float, Score]]:
    found = []
    for score in audit.scores if audit else ():
        told = steps_of(score.attack) if score.attack and finite([score.value]) else None
        if told is not None:
            found.append((score.name, told[0], told[1], score))
    return found


def _add(points: list[list[float | None]], steps: float, value: float | None, before: float | None,
         interval: tuple[float, float] | None) -> None:
    taken = {p[0] for p in points}
    if before is not None and 0.0 not in taken:
        points.append([0.0, short(before), None, None])
    if steps not in taken:
        low, high = interval or (None, None)
        points.append([steps, short(value), short(low), short(high)])


def originals(models: Sequence[ComparedModel]) -> dict[str, float | None]:
    """Score under relearning -> the original's value, left alone."""
    made: dict[str, float | None] = {}
    for model in models:
        for name, _, _, score in _scores(model.view.audit):
            made.setdefault(name, short(score.controls.get("original")))
    return made


def answers(models: Sequence[ComparedModel], table: RowTable, pool: TextPool) -> dict[str, dict[str, list[list[int]]]]:
    """Label of the longest relearning -> model -> (row number, number of its answer), where answers were kept."""
    made: dict[str, dict[str, list[list[int]]]] = {}
    for model in models:
        view, role = model.sources[0]
        mine = [f for f in view.attacked if f.role == role and f.split == "forget" and steps_of(f.label)]
        longest: dict[str, tuple[float, AttackFolder]] = {}
        for folder in mine:
            attack, steps = steps_of(folder.label) or ("", 0.0)
            if steps >= longest.get(attack, (0.0, folder))[0]:
                longest[attack] = steps, folder
        for _, folder in longest.values():
            if (path := folder.folder / "generation.forget.jsonl").exists():
                made.setdefault(folder.label, {})[model.key] = _numbered(path, table, pool)
    return made


def _numbered(path: Path, table: RowTable, pool: TextPool) -> list[list[int]]:
    first: dict[int, int] = {}
    for row in read_jsonl(path):
        number = table.number.get(("forget", str(row["id"])))
        if number is not None and row["form"] == "prompt":
            first.setdefault(number, pool.number(str(row["text"]).strip()))
    return sorted(map(list, first.items()))
