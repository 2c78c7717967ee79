"""How a stream of deletion requests stands: its sentences, and its page with the curves over requests."""

from __future__ import annotations

import html
import shlex

from expunge.metrics.stability_gap import rebounds as rises
from expunge.metrics.stability_gap import stability_gap, worst_rebound
from expunge.records.requests import PLAIN, RequestStream, curves
from expunge.records.study import StudyChart
from expunge.report.charts import to_svg
from expunge.report.study import STYLE, picture

FEW = 8
"""Curves of single requests in one picture; of more, their largest and their mean."""


def counted(stream: RequestStream) -> str:
    """How many requests are in each state, such as "3 done, 1 open, 1 late"."""
    states = [(len(stream.in_state(state)), state) for state in ("done", "running", "open", "returned")]
    parts = [f"{count} {state}" for count, state in [*states, (len(stream.late), "late")] if count]
    return ", ".join(parts) or "No request"


def facts(stream: RequestStream) -> list[str]:
    """What a reader should know first, one sentence each."""
    said = []
    due = stream.next_deadline
    if due is not None:
        said.append(f"Next deadline: {due.deadline} ({due.id}).")
    for condition in stream.readings[-1].values if stream.readings else ():
        values, done = curves(stream, condition)
        worst = worst_rebound(values, done, stream.readings[-1].levels.get(condition, {}))
        if worst is not None:
            noise = stream.readings[-1].noise.get(condition, 0.0)
            said.append(f"Largest rebound in {condition}: {worst[1]:+.3f} ({worst[0]}); the noise floor is "
                        f"{noise:.3f}.")
    left = still_known(stream)
    if left:
        said.append(f"Carried out, and still known more surely than by a model that never saw them: {', '.join(left)}. "
                    "The recipe is too weak for them.")
    utility = [r.utility for r in stream.readings if r.utility is not None]
    if len(utility) > 1:
        said.append(f"Retain rows: {utility[-1]:.1%} of what the first model gave them; at worst {min(utility):.1%}, "
                    f"stability gap {stability_gap(utility):.1%}.")
    if stream.alarms:
        last = stream.alarms[-1]
        names = sorted({name for found in last["rebounds"].values() for name in found})
        said.append(f"{len(stream.alarms)} alarm{'s' * (len(stream.alarms) > 1)}; the last {last['time'][:16]}: "
                    f"{', '.join(names)} in model {last['model']}.")
    failed = [run for run in stream.runs if run.failed]
    if failed and failed[-1] is stream.runs[-1]:
        said.append(f"The last run failed: {failed[-1].failed}")
    return said


def still_known(stream: RequestStream) -> list[str]:
    """Requests of which more was left right after they were carried out than models that never saw them say, by more
    than the noise floor."""
    if not stream.readings:
        return []
    levels, noise = stream.readings[-1].levels.get(PLAIN, {}), stream.readings[-1].noise.get(PLAIN, 0.0)
    return [r.id for r in stream.requests
            if PLAIN in r.after and r.after[PLAIN] > levels.get(r.id, 0.0) + noise]


def next_command(stream: RequestStream, ledger: str) -> str:
    """What is to be done now."""
    place = f"expunge requests run {shlex.quote(ledger)}"
    if stream.pending:
        return f"{place} --resume"
    if stream.in_state("returned"):
        return f"{place} --again"
    if stream.in_state("open"):
        return place if stream.runs else f'{place} --model MODEL --method "npo + retain_nll" --out runs'
    return f"expunge requests check {shlex.quote(ledger)} --model LATER, of any model that is made from the last one"


def charts(stream: RequestStream) -> list[StudyChart]:
    """Deleted requests over time, and what is kept."""
    found = []
    for condition in stream.readings[-1].values if stream.readings else ():
        values, done = curves(stream, condition)
        start = {name: len(stream.readings) - len(curve) for name, curve in values.items()}
        deleted = {name: [(float(start[name] + i), v) for i, v in enumerate(values[name]) if i >= at]
                   for name, at in done.items()}
        if len(deleted) > FEW:
            at_time: dict[float, list[float]] = {}
            for points in deleted.values():
                for x, y in points:
                    at_time.setdefault(x, []).append(y)
            deleted = {"the best known": [(x, max(ys)) for x, ys in sorted(at_time.items())],
                       "mean": [(x, sum(ys) / len(ys)) for x, ys in sorted(at_time.items())]}
        levels = stream.readings[-1].levels.get(condition, {})
        if levels and deleted:
            mean = sum(levels.values()) / len(levels)
            deleted["never seen"] = [(0.0, mean), (float(len(stream.readings) - 1), mean)]
        found.append(StudyChart(
            title=f"What is left of deleted requests: {condition}", x="times the model was asked", y=condition,
            series=deleted, caption="From the time at which each was deleted. Never seen: what a model says that was "
                                    "not trained on the rows."))
    kept = [(float(i), r.utility) for i, r in enumerate(stream.readings) if r.utility is not None]
    found.append(StudyChart(title="What is kept", x="times the model was asked", y="share of the first model",
                            series={"retain rows": kept}, caption="Mean probability of the retain rows as a share of "
                                                                  "what the first model gave the same rows."))
    return [chart for chart in found if any(len(points) > 1 for points in chart.series.values())]


def render_requests(stream: RequestStream) -> str:
    """One self-contained HTML page. It names no row and no entity, as the ledger does."""
    escape = html.escape
    values, done = curves(stream)
    levels = stream.readings[-1].levels.get(PLAIN, {}) if stream.readings else {}

    def worst(name: str) -> str:
        later = rises(values[name], done[name], levels.get(name, 0.0)) if name in done else []
        return f"{max(later):+.3f}" if later else ""

    rows = [(r.id, len(r.rows), r.by, r.added[:10], r.deadline or "", r.state + ", late" * r.late,
             (r.done or "")[:16], r.run or "", f"{r.after[PLAIN]:.3f}" if PLAIN in r.after else "", worst(r.id), r.note)
            for r in stream.requests]
    heads = ("request", "rows", "named by", "added", "deadline", "state", "done", "run", "left after", "worst rebound",
             "note")
    table = "".join("<tr>" + "".join(f"<td>{escape(str(cell))}</td>" for cell in row) + "</tr>" for row in rows)
    figures = "".join(f"<figure><h2>{escape(c.title)}</h2>{to_svg(picture(c), f'c{i}')}<figcaption>"
                      f"{escape(c.caption)}</figcaption></figure>" for i, c in enumerate(charts(stream)))
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Deletion requests</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>{STYLE} table {{ border-collapse: collapse; font-size: 13px; }} td, th {{ padding: 2px 8px; text-align: left; }}
.wide {{ overflow-x: auto; }}</style></head><body>
<h1>Deletion requests of {escape(stream.task)}</h1>
<p class=first>{escape(counted(stream))}.</p>
{"".join(f"<p>{escape(text)}</p>" for text in facts(stream))}
{figures}
<div class=wide><table><tr>{"".join(f"<th>{head}</th>" for head in heads)}</tr>{table}</table></div>
</body></html>
"""
