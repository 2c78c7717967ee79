"""The page of a study: what it found, pictures, and what it was made of."""

from __future__ import annotations

import html
import json

from expunge.records.study import Study, StudyChart
from expunge.report.charts import Spec, _axis, _short, _spec, to_svg
from expunge.report.several import DASHES, PALETTE

STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.5 Arial, Helvetica, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
figure { margin: 2rem 0; overflow-x: auto; } figcaption { font-size: 13px; max-width: 44rem; }
code { font-size: 13px; } dt { font-weight: bold; } .first { font-size: 18px; }
"""
ABOUT = {
    "outlandish": "One surprising row is put into a stream of others. What is remembered, and how far does it spread?",
    "path_dependence": "The same rows, learned in another order and unlearned in the same way: is it the same model?",
    "traces": "A model was unlearned. Does it show in answers to prompts that have nothing to do with what it forgot?",
    "worst_case": "Some rows are harder to forget than others. Which ones, and how far are they from random ones?",
    "novice": "Skills are unlearned and taught again. Does the model learn like one that never had them?",
}


def picture(chart: StudyChart) -> Spec:
    """Curves or points, one colour and dash a series, with a legend."""
    names = [name for name, points in chart.series.items() if points]
    values = [{"series": n, "x": _short(x), "y": _short(y)} for n in names for x, y in chart.series[n]]
    colours = [PALETTE[i % len(PALETTE)] for i in range(len(names))]
    dashes = [DASHES[i // len(PALETTE) % len(DASHES)] if i >= len(PALETTE) else DASHES[i % len(DASHES)]
              for i in range(len(names))]
    whole = all(x == round(x) for n in names for x, _ in chart.series[n])
    scales = [{"type": "log"} if log else {"zero": False} for log in (chart.log_x, chart.log_y)]
    encoding: Spec = {
        "x": _axis("x", chart.x, scale=scales[0] | {"nice": not chart.log_x},
                   axis={"tickCount": 6} | ({"format": "~e"} if chart.log_x else {})
                   | ({"tickMinStep": 1} if whole else {})),
        "y": _axis("y", chart.y, scale=scales[1], axis={"tickCount": 5, "format": "~e" if chart.log_y else "~g"}),
        "color": {"field": "series", "type": "nominal", "sort": names,
                  "legend": {"columns": 3} | ({} if chart.dots else {"symbolType": "stroke"}),
                  "scale": {"domain": names, "range": colours}}}
    if chart.dots:
        mark: Spec = {"type": "point", "filled": True, "size": 60, "opacity": 0.8}
        encoding["shape"] = {"field": "series", "type": "nominal", "sort": names, "legend": {"columns": 3},
                             "scale": {"domain": names}}  # the same legend, so that there is one
    else:
        mark = {"type": "line", "strokeWidth": 2, "point": {"size": 30, "strokeDash": [1, 0]}}
        encoding["strokeDash"] = {"field": "series", "type": "nominal", "sort": names,
                                  "scale": {"domain": names, "range": dashes}}
    ends = "; ".join(f"{n} from {chart.series[n][0][1]:.3g} to {chart.series[n][-1][1]:.3g}" for n in names)
    return _spec(f"{chart.title}: {chart.y} by {chart.x}. {ends}.", 520, 280, data={"values": values}, mark=mark,
                 encoding=encoding)


def render_study(study: Study) -> str:
    """One self-contained HTML page."""
    escape = html.escape
    found = study.found
    said = "" if found is None else "".join(
        f"<p{' class=first' if i == 0 else ''}>{escape(text)}</p>" for i, text in enumerate(found.findings))
    figures = "" if found is None else "".join(
        f"<figure><h2>{escape(c.title)}</h2>{to_svg(picture(c), f'c{i}')}<figcaption>{escape(c.caption)}</figcaption>"
        "</figure>" for i, c in enumerate(found.charts) if any(c.series.values()))
    settings = ", ".join(f"{k} {v}" for k, v in study.settings.items() if v is not None)
    made = {"rows of": study.task, "model": study.model or "of the study's own", "settings": settings,
            "parts": f"{len(study.parts)} of {len(study.planned)}", "time": f"{study.seconds:.0f} s",
            "numbers": "study.json, beside this page"}
    listed = "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in made.items())
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Study: {escape(study.name)}</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>{STYLE}</style></head><body>
<h1>Study: {escape(study.name)}</h1>
<p>{escape(ABOUT.get(study.name, ""))}</p>
{said}
{figures}
<dl>{listed}</dl>
<details><summary>Figures</summary><pre>{escape(json.dumps(found.figures if found else {}, indent=1))}</pre></details>
</body></html>
"""
