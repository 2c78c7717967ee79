"""Score tables and forget-versus-utility points, for one run and for several side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from expunge.records.score import Score
from expunge.report import text
from expunge.report.charts import Point
from expunge.report.gather import Group, RunView, finite

FORGET_AXES = ("forget.probability", "forget.rouge_l")
UTILITY_AXES = ("model_utility", "retain.probability", "utility.probability", "retain.rouge_l")


@dataclass(frozen=True)
class Mark:
    """A place on the little strip beside a score, in per cent of its width."""

    role: str
    at: float


@dataclass(frozen=True)
class Strip:
    marks: tuple[Mark, ...]
    band: tuple[float, float] | None = None
    """Left edge and width of the interval."""


@dataclass(frozen=True)
class ScoreRow:
    score: Score
    original: float | None
    retrained: float | None
    strip: Strip | None


@dataclass(frozen=True)
class CompareCell:
    """One cell of the comparison: a value and its interval, or why there is none."""

    value: str
    spread: str = ""
    reason: str = ""


@dataclass(frozen=True)
class CompareRow:
    name: str
    attack: str | None
    reading: str
    original: str
    retrained: str
    entries: tuple[CompareCell, ...]


def blocks(scores: Sequence[Score]) -> list[tuple[str, list[ScoreRow]]]:
    """Scores of one audit in the blocks of the page, empty blocks left out."""
    rows = {g: [_row(s) for s in scores if text.group_of(s) == g] for g in text.GROUPS}
    return [(text.GROUP_TITLES[g], found) for g, found in rows.items() if found]


def _row(score: Score) -> ScoreRow:
    original, retrained = (score.controls.get(k) for k in ("original", "retrained"))
    return ScoreRow(score, original, retrained, _strip(score, original, retrained))


def _strip(score: Score, original: float | None, retrained: float | None) -> Strip | None:
    """Where the three models lie in the score's range (or in that of the values, if unbounded)."""
    if not finite([score.value]):
        return None
    named = {"original": original, "retrained": retrained, "unlearned": score.value}
    known = {role: v for role, v in named.items() if v is not None and finite([v])}
    bounds = finite(score.range or ())
    if len(bounds) != 2 or any(not bounds[0] <= v <= bounds[1] for v in known.values()):
        bounds = [min(known.values()), max(known.values())]
    low, high = bounds
    if high <= low:
        return None

    def place(value: float) -> float:
        return round(100 * min(1.0, max(0.0, (value - low) / (high - low))), 2)

    band = None
    if score.interval is not None and len(finite(score.interval)) == 2:
        left, right = place(score.interval[0]), place(score.interval[1])
        band = (left, round(right - left, 2))
    return Strip(tuple(Mark(role, place(v)) for role, v in known.items()), band)


def compare(groups: Sequence[Group], *, attacked: bool = False) -> list[tuple[str, list[CompareRow]]]:
    """Scores of all groups, left alone or under attack: one column each, plus original and retrained."""
    keys: dict[tuple[str, str | None], Score] = {}
    for view in _audited(groups):
        for score in (s for s in (view.audit.scores if view.audit else ()) if (s.attack is not None) == attacked):
            keys.setdefault((score.name, score.attack), score)
    found: dict[str, list[CompareRow]] = {g: [] for g in text.GROUPS}
    for (name, attack), first in keys.items():
        ideal = text.ideal(first)
        found[text.group_of(first)].append(CompareRow(
            name, attack, text.READING[first.higher_is] + (f"; ideal {ideal}" if ideal else ""),
            _control(groups, name, attack, "original"), _control(groups, name, attack, "retrained"),
            tuple(entry(group.views, name, attack) for group in groups),
        ))
    return [(text.GROUP_TITLES[g], rows) for g, rows in found.items() if rows]


def _audited(groups: Sequence[Group]) -> list[RunView]:
    return [view for group in groups for view in group.views if view.audit is not None]


def _scores(views: Sequence[RunView], name: str, attack: str | None) -> list[Score]:
    found = (view.audit.score(name, attack) for view in views if view.audit is not None)
    return [score for score in found if score is not None]


def entry(views: Sequence[RunView], name: str, attack: str | None) -> CompareCell:
    """One run: its value and bootstrap interval. Several seeds: median and range over seeds."""
    scores = _scores(views, name, attack)
    values = finite(s.value for s in scores)
    if not values:
        reason = next((s.unavailable for s in scores if s.unavailable), "")
        return CompareCell("–", reason=reason or ("not measured" if scores else "not audited"))
    if len(views) == 1:
        return CompareCell(text.number(values[0]), text.interval(scores[0].interval))
    some = "" if len(values) == len(views) else f", {len(values)} of {len(views)} seeds"
    return CompareCell(text.number(median(values)), text.interval((min(values), max(values))) + some)


def _control(groups: Sequence[Group], name: str, attack: str | None, role: str) -> str:
    """A reference's value; a range when the audits used references that differ."""
    values = finite(s.controls.get(role) for s in _scores(_audited(groups), name, attack))
    if not values:
        return "–"
    low, high = text.number(min(values)), text.number(max(values))
    return low if low == high else f"{low} to {high}"


def axes(views: Sequence[RunView]) -> tuple[str, str] | None:
    """The first forget and utility scores that any of the runs has, as axis names."""
    def pick(names: Sequence[str]) -> str | None:
        return next((n for n in names if any(_known(v, n) is not None for v in views)), None)

    x, y = pick(FORGET_AXES), pick(UTILITY_AXES)
    return None if x is None or y is None else (x, y)


def _known(view: RunView, name: str) -> Score | None:
    score = view.audit.score(name) if view.audit else None
    return score if score is not None and finite([score.value]) else None


def points(groups: Sequence[Group], x: str, y: str, *, single: bool) -> list[Point]:
    """One point per group (median over seeds), and the references each once."""
    found: list[Point] = []
    pairs = {g.letter: [(sx, sy) for v in g.views if (sx := _known(v, x)) and (sy := _known(v, y))]
             for g in groups}
    everyone = [pair for group in pairs.values() for pair in group]
    for role in ("original", "retrained"):
        both = [(a.controls.get(role), b.controls.get(role)) for a, b in everyone]
        known = [(fa, fb) for fa, fb in both if fa is not None and fb is not None]
        if known:
            found.append(Point(role, role, median(p[0] for p in known), median(p[1] for p in known)))
    for letter, group in pairs.items():
        if not group:
            continue
        label = "unlearned" if single else letter
        xs, ys = [float(a.value or 0) for a, _ in group], [float(b.value or 0) for _, b in group]
        if len(group) == 1:
            spread = (group[0][0].interval, group[0][1].interval)
        else:
            spread = ((min(xs), max(xs)), (min(ys), max(ys)))
        found.append(Point(label, "unlearned", median(xs), median(ys), *spread))
    return found
