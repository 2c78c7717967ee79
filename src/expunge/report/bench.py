"""The table of a benchmark, from runs that were scored again: as a record, as Markdown and as one HTML page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

from expunge.records.base import write_text
from expunge.records.bench import BenchCell, BenchRow, BenchTable
from expunge.records.overview import number
from expunge.records.score import Audit, Score
from expunge.report.commands import rate_of
from expunge.report.comparison import comparison
from expunge.report.comparison_text import finding, notes
from expunge.report.gather import Group, RunView, finite, letter
from expunge.report.leaderboard import table as markdown_table
from expunge.report.page import environment
from expunge.report.text import explain

LEAK, KEPT = "leak_share", "retain.probability"
METRICS = ("forget.probability", "forget.accuracy", "forget.rouge_l")
"""What the attack columns show: the first that an audit took under an attack."""
FLOOR, PRICE = 0.95, 4.0
"""Share of the original's retain probability that costs nothing, and what each share below it costs in leak share."""
RULE = (f"Methods are ranked, the lowest first, by their leak share under the strongest attack plus {PRICE:g} x "
        f"({FLOOR:g} - kept), where the retain probability that is kept is below {FLOOR:g} of the original's. Trials "
        "were chosen by the same without attacks.")
NO_BEST = "No method is the best beyond noise in any score."
INTERVALS = ("Brackets hold all seeds' 95 % intervals: from the lowest lower end to the highest upper end, by entity "
             "where there are five or more, else by row.")
ATTACKED = ("Under attack: what it brought out in {metric} beyond the same attack on the control; a number "
            "in parentheses says in how many seeds it succeeded.")
RESCORED = ("Every score of a method was computed again from the stored observations of its run folder; none was typed "
            "in. Steps, times and recipes are what its run record says. Published rows are taken from their source; "
            "models, prompts and training rows are others there.")


def penalty(leak: float | None, kept: float | None) -> float:
    """What methods are ranked by, the lowest first; infinite where either is not known."""
    return float("inf") if leak is None or kept is None else leak + PRICE * max(0.0, FLOOR - kept)


def kept_of(audit: Audit) -> float | None:
    """Retain probability as a share of the original's."""
    score = audit.score(KEPT)
    before = score.controls.get("original") if score else None
    return None if score is None or score.value is None or not before else score.value / before


def value_of(audit: Audit, name: str, attack: str | None = None) -> float | None:
    score = audit.score(name, attack)
    return None if score is None else score.value


def made(suite: str, groups: Sequence[Group], *, published: Iterable[BenchRow] = (), trials: Mapping[str, int],
         cautions: Sequence[str] = ()) -> BenchTable:
    """The table of groups of audited runs.

    Args:
        published: rows to stand beside ours.
        trials: recipe -> from how many trials its setting was chosen.
        cautions: what to say above it.
    """
    groups = _ordered(groups)
    audits = [v.audit for g in groups for v in g.views if v.audit]
    plain = tuple(dict.fromkeys(s.name for a in audits for s in a.scores if s.attack is None and finite([s.value])))
    attacked = tuple(dict.fromkeys(label for a in audits for record in a.attacks for label in record.labels))
    metric = next((m for m in METRICS if any(s.attack and s.name == m for a in audits for s in a.scores)), "")
    found = comparison(groups, scores=plain)
    marked = {(s.name, s.marked) for s in found.scores}
    rows = [_method(g, plain, attacked, metric, {n for n, letter in marked if letter == g.letter}, trials)
            for g in groups]
    references = [BenchRow(kind="reference", title=role, scores={
        s.name: BenchCell(value=value) for s in found.scores if (value := getattr(s, role)) is not None})
        for role in ("original", "retrained")]
    said = (RULE, INTERVALS, *([ATTACKED.format(metric=metric)] if attacked and metric else ()), RESCORED,
            *notes(found)[1:])
    return BenchTable(
        suite=suite, columns=plain, attacked=attacked, metric=metric, rescored=len(audits), notes=said,
        rows=(*(r for r in references if r.scores), *rows, *_beside(published, plain)),
        cautions=(*cautions, *_budgets(rows)),
        findings=(*[NO_BEST] * (not any(s.marked for s in found.scores)), *map(finding, found.scores))
        if len(rows) > 1 and max(r.seeds for r in rows) > 1 else ())


def _ordered(groups: Sequence[Group]) -> list[Group]:
    """The groups from the best, with letters in this order."""
    def rank(one: Group) -> float:
        audits = [v.audit for v in one.views if v.audit]
        labels = (None, *dict.fromkeys(label for a in audits for r in a.attacks for label in r.labels))
        leaks = finite(_mean(value_of(a, LEAK, label) for a in audits) for label in labels)
        return penalty(max(leaks, default=None), _mean(map(kept_of, audits)))

    return [replace(one, letter=letter(i)) for i, one in enumerate(sorted(groups, key=rank))]


def _method(one: Group, plain: Sequence[str], attacked: Sequence[str], metric: str, best: set[str],
            trials: Mapping[str, int]) -> BenchRow:
    views = [v for v in one.views if v.audit]
    audits = [v.audit for v in views if v.audit]
    leaks = {label or "": fmean(known) for label in (None, *attacked)
             if (known := finite(value_of(a, LEAK, label) for a in audits))}
    records = [v.record for v in views if v.record]
    cells = {label: cell for label in attacked if (cell := _excess(audits, metric, label))}
    return BenchRow(
        kind="method", letter=one.letter, title=one.title, about=_recipe(one), seeds=len(views),
        verdicts=dict(Counter(a.verdict.outcome for a in audits if a.verdict)), trials=trials.get(one.views[0].recipe),
        steps=_mean(r.timing.get("steps") for r in records), rows=_mean(map(_read, views)),
        train_s=_mean(r.timing.get("train_s") for r in records),
        share=_mean(r.timing.get("of_retraining") for r in records), kept=_mean(map(kept_of, audits)),
        strongest=max(leaks, key=lambda label: leaks[label]) if leaks else "", leaks=leaks,
        scores={name: cell for name in plain if (cell := _plain(audits, name, name in best))}, attacks=cells)


def _recipe(one: Group) -> str:
    """As typed, with the learning rate of its steps."""
    record = one.views[0].record
    rate = rate_of(record) if record else None
    return one.views[0].recipe + (f" lr={rate:g}" if rate is not None else "")


def _read(view: RunView) -> float | None:
    """Rows of each side that the steps of a run read."""
    record = view.record
    if record is None or not record.timing.get("steps"):
        return None
    return record.timing["steps"] * record.settings.batch_size * record.settings.accumulate


def _mean(values: Iterable[float | None]) -> float | None:
    known = finite(values)
    return fmean(known) if known else None


def _cell(values: Sequence[float], bounds: Sequence[tuple[float, float] | None], **more: Any) -> BenchCell:
    known = [b for b in bounds if b is not None and len(finite(b)) == 2]
    low, high = (min(b[0] for b in known), max(b[1] for b in known)) if known else (None, None)
    return BenchCell(value=fmean(values), low=low, high=high, **more)


def _taken(audits: Sequence[Audit], name: str, attack: str | None) -> list[Score]:
    return [s for a in audits if (s := a.score(name, attack)) is not None and finite([s.value])]


def _plain(audits: Sequence[Audit], name: str, best: bool) -> BenchCell | None:
    scores = _taken(audits, name, None)
    return _cell([float(s.value or 0.0) for s in scores], [s.interval for s in scores], marked=best) if scores else None


def _excess(audits: Sequence[Audit], metric: str, label: str) -> BenchCell | None:
    scores = [s for s in _taken(audits, metric, label) if s.excess is not None]
    return _cell([float(s.excess or 0.0) for s in scores], [s.excess_interval for s in scores],
                 won=sum(s.succeeded for s in scores)) if scores else None


def _beside(published: Iterable[BenchRow], plain: Sequence[str]) -> Iterable[BenchRow]:
    """Published rows that have one of the columns."""
    return (row for row in published if set(row.scores) & set(plain))


def _budgets(rows: Sequence[BenchRow]) -> list[str]:
    """What to say where methods had unequal budgets."""
    read = {r.rows for r in rows if r.rows is not None}
    tried = {r.trials for r in rows}
    said = [f"The budgets differ: methods with steps read {_listed(read)} rows of each side."] if len(read) > 1 else []
    if len(tried - {None}) > 1 or (None in tried and len(tried) > 1):
        few = [f"{r.title}: {'not known' if r.trials is None else r.trials}" for r in rows]
        said.append(f"The numbers of trials differ: {'; '.join(few)}.")
    if len({r.seeds for r in rows}) > 1:
        said.append("The methods have different numbers of seeds.")
    return said


def _listed(values: Iterable[float]) -> str:
    return ", ".join(f"{value:g}" for value in sorted(values))


# Drawing

def kept_text(row: BenchRow) -> str:
    return "–" if row.kept is None else f"{row.kept:.0%}"


def leak_text(row: BenchRow) -> str:
    """`0.25 by relearn(steps=16)`; without the attack where plain asking tells as much."""
    if not row.leaks:
        return "–"
    most = number(row.leaks[row.strongest])
    return f"{most} by {row.strongest}" if row.strongest and row.leaks[row.strongest] > row.leaks.get("", -1) else most


def rank_text(row: BenchRow) -> str:
    """The figure by which it has its place."""
    return number(penalty(row.leaks[row.strongest], row.kept)) if row.leaks and row.kept is not None else "–"


def verdict_text(row: BenchRow) -> str:
    return ", ".join(f"{outcome} {count} of {row.seeds}" if row.seeds > 1 else outcome
                     for outcome, count in row.verdicts.items())


def attack_text(row: BenchRow, label: str) -> str:
    cell = row.attacks.get(label)
    return "–" if cell is None else cell.text + f" ({cell.won})" * bool(cell.won)


def costs(methods: Sequence[BenchRow]) -> list[dict[str, str]]:
    """What each method cost, without the columns that none of them fills."""
    found = [cost_text(row) for row in methods]
    return [{name: text for name, text in one.items() if any(other[name] != "–" for other in found)} for one in found]


def cost_text(row: BenchRow) -> dict[str, str]:
    return {"seeds": str(row.seeds), "trials": "–" if row.trials is None else str(row.trials),
            "steps": "–" if row.steps is None else f"{row.steps:g}",
            "rows read": "none" if row.rows is None else f"{row.rows:g}",
            "train s": "–" if row.train_s is None else f"{row.train_s:.1f}",
            "of retraining": "–" if row.share is None else f"{row.share:.1%}"}


def markdown(found: BenchTable) -> str:
    """What the table says, as Markdown: scores, scores beside published ones, under attack, budgets."""
    def named(row: BenchRow) -> str:
        return f"{row.title} (published)" if row.kind == "published" else \
            f"{row.letter}: `{row.title}`" if row.kind == "method" else row.title

    def cells(row: BenchRow, columns: Sequence[str]) -> dict[str, str]:
        return {name: row.scores[name].text if name in row.scores else "–" for name in columns}

    ours = [row for row in found.rows if row.kind != "published"]
    methods = [row for row in ours if row.kind == "method"]
    tables = [[{"": named(row), "verdicts": verdict_text(row) or "–", "leak share, strongest": leak_text(row),
                "retain probability kept": kept_text(row), "ranked by": rank_text(row),
                **cells(row, found.own)} for row in ours],
              [{"": named(row), **cells(row, found.published),
                "source": row.about if row.kind == "published" else "ours"} for row in found.rows]
              if found.published else [],
              [{"": named(row), **{label: attack_text(row, label) for label in found.attacked}} for row in methods]
              if found.attacked else [],
              [{"": named(row), **cost, "recipe": f"`{row.about}`"}
               for row, cost in zip(methods, costs(methods), strict=True)]]
    parts = [f"**{found.suite}**, {found.rescored} runs, scored again from their observations.",
             *(f"Caution: {said}" for said in found.cautions),
             *(markdown_table(rows, list(rows[0])) for rows in tables if rows),
             "\n".join(f"- {said}" for said in (*found.notes, *found.findings))]
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"


def html(found: BenchTable) -> str:
    """One page that loads nothing."""
    methods = [row for row in found.rows if row.kind == "method"]
    return environment().get_template("bench.html.j2").render(
        found=found, verdict=verdict_text, leak=leak_text, kept=kept_text, rank=rank_text, explain=explain,
        costs=dict(zip((r.letter for r in methods), costs(methods), strict=True)),
        any_best=any(cell.marked for r in methods for cell in r.scores.values()))


def write(found: BenchTable, out: Path) -> None:
    """DIR/table.json, DIR/bench.md and DIR/bench.html."""
    found.write(out / BenchTable.FILE)
    write_text(out / "bench.md", markdown(found))
    write_text(out / "bench.html", html(found))
