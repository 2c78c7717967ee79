"""The sections on attacks: what they brought out of one model, and of several methods side by side."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from expunge.report import attack_charts, attack_matrix, attacks, text
from expunge.report.gather import Group, RunView
from expunge.report.parts import Chart, chart

ANSWERS = 8


def section(view: RunView) -> dict[str, Any] | None:
    """Everything attacks brought out of one model; None when the audit asked for none."""
    audit = view.audit
    if audit is None or not any(s.attack for s in audit.scores):
        return None
    dots = [chart(f"excess{i}", attack_charts.excess_dots(name, rows), name)
            for i, (name, rows) in enumerate(attacks.excesses(audit).items())]
    grown = [chart(f"strength{i}", attack_charts.lines(c), c.title) for i, c in enumerate(attacks.curves(audit))]
    found = attacks.levels(audit)
    return {
        "levels": found, "others": attacks.others(audit), "unavailable": attacks.unavailable(audit), "dots": dots,
        "curves": grown, "answers": attacks.recovered(view, ANSWERS), "records": audit.attacks,
        "won": any(row.leak for level in found for row in level.shown),
    }


def profiles(view: RunView) -> list[Chart]:
    """Numbers per layer, where a probe looked inside."""
    return [chart(f"layer{i}", attack_charts.lines(c), c.title) for i, c in enumerate(attacks.profiles(view))]


def heat(groups: Sequence[Group]) -> dict[str, Any] | None:
    """Attacks down, methods across; None when no audit ran an attack."""
    found = attack_matrix.matrix((g.letter, v.audit) for g in groups for v in g.views if v.audit)
    if len(found["attacks"]) < 2:
        return None
    cells = {(c["attack"], c["method"]): c for c in found["cells"]}
    rows = []
    for attack in found["attacks"]:
        row = [cells.get((attack["label"], g.letter)) for g in groups]
        rows.append((attack["label"] or attack_matrix.ALONE, attack["access"] if attack["label"] else "", [
            {"text": "–" if c is None or "excess" not in c else text.number(c["excess"]),
             "shade": None if c is None else attack_matrix.colour(c), "won": bool(c and c.get("leaks")),
             "why": attack_matrix.reason(c, found["metric"])} for c in row]))
    return {"metric": found["metric"], "rows": rows, "data": json.dumps(found, ensure_ascii=False)}
