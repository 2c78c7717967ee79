"""The page of a sweep: every trial as a point, the Pareto front as a line, and a table."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence

from expunge.records.sweep import Sweep, Trial
from expunge.report.charts import INK, Spec, _axis, to_svg
from expunge.report.several import front_chart


def pareto(trials: Sequence[Trial], front: Sequence[Trial]) -> Spec:
    """Utility (x) against log10 forget quality (y); trials of the front are joined and numbered."""
    known = [t for t in trials if t.utility is not None and t.quality is not None]
    limit = {"data": {"values": [{"limit": -1.301}]}, "mark": {"type": "rule", "strokeDash": [5, 4], "color": INK,
                                                               "opacity": 0.5},
             "encoding": {"y": _axis("limit", "forget quality, log10 p")}}
    return front_chart([(str(t.number), t.utility or 0.0, t.quality or 0.0) for t in known],
                       [str(t.number) for t in front], "utility, share of the original's", "forget quality, log10 p",
                       what="trial", layers=[limit], x_format="~%", all_labels=False)


def render_sweep(sweep: Sweep) -> str:
    """One self-contained HTML page."""
    front, best = sweep.front(), sweep.best()
    chosen = {t.number for t in front}
    escape = html.escape
    picture = to_svg(pareto(sweep.trials, front), "front") if any(t.quality is not None for t in sweep.trials) else ""
    rows = []
    for t in sorted(sweep.trials, key=lambda t: -(t.merit if t.merit is not None else -1e9)):
        marks = ("best" if best and t.number == best.number else "") + (" front" if t.number in chosen else "")
        cells = [str(t.number), marks.strip(), t.failed or f"{10 ** (t.quality or 0.0):.2g}",
                 "" if t.utility is None else f"{t.utility:.1%}", _of(t, "forget.probability"),
                 _of(t, "retain.probability"), f"{t.seconds:.1f}", t.recipe,
                 "" if t.params.get("lr") is None else f"{t.params['lr']:g}"]
        rows.append("<tr>" + "".join(f"<td>{escape(c)}</td>" for c in cells) + "</tr>")
    head = "".join(f"<th>{h}</th>" for h in ("trial", "", "forget quality p", "utility", "forget probability",
                                            "retain probability", "train s", "recipe", "lr"))
    space = "; ".join(f"{k}: {v[0]} {', '.join(map(str, v[1:]))}" for k, v in sweep.space.items())
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Sweep of {escape(sweep.recipe)}</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
:root {{ color-scheme: light dark; }}
body {{ font: 15px/1.5 Arial, Helvetica, sans-serif; max-width: 66rem; margin: 2rem auto; padding: 0 1rem; }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 13px; }}
td, th {{ padding: .25rem .6rem; border-bottom: 1px solid #8884; text-align: left; vertical-align: top; }}
code {{ font-size: 13px; }} .wide {{ overflow-x: auto; }}
</style></head><body>
<h1>Sweep of <code>{escape(sweep.recipe)}</code></h1>
<p>{len(sweep.trials)} trials on {escape(sweep.task)}, seed {sweep.seed},
settings {escape(json.dumps(sweep.settings))}.</p>
<p>Searched: {escape(space)}.</p>
{picture}
<p>Above the dashed line (p = 0.05) forget answers cannot be told from those of the retrained model; with few rows
that says little. "Best" is by merit: log10 p, less 0.4 for every point of utility below 95 % of the original's.</p>
<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>
</body></html>
"""


def _of(trial: Trial, name: str) -> str:
    value = trial.scores.get(name)
    return "" if value is None else f"{value:.3f}"
