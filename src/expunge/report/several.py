"""Charts over several runs: which groups are beaten by no other, and their learning curves side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean, median

from expunge.records.sweep import unbeaten
from expunge.report import tables
from expunge.report.charts import INK, Spec, _axis, _short, _spec
from expunge.report.gather import Group, RunView, finite
from expunge.report.parts import Chart, chart

FRONT, REST = "#d9640b", "#6b84a8"
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8a8f98", "#7b61a8")
DASHES: tuple[list[int], ...] = ([1, 0], [6, 3], [2, 2])
"""Every colour comes with each dash in turn, so that 24 curves are told apart, on paper too."""
MOST_CURVES = 24


def front_chart(points: Sequence[tuple[str, float, float]], front: Sequence[str], x_title: str, y_title: str, *,
                what: str, layers: Sequence[Spec] = (), x_format: str | None = None, all_labels: bool = True) -> Spec:
    """Points (label, x, y) of which those of the front are joined.

    Args:
        what: what a point is, for the legend, such as `trial`.
        layers: further layers, drawn above.
        all_labels: label every point, not only those of the front.
    """
    values = [{"x": _short(x), "y": _short(y), "label": label, "kind": "front" if label in front else "other"}
              for label, x, y in points]
    shown = {"tickCount": 5} if x_format is None else {"format": x_format, "tickCount": 5}
    x, y = _axis("x", x_title, scale={"zero": False}, axis=shown), _axis("y", y_title, scale={"zero": False})
    said = f"datum.value == 'front' ? 'beaten by no other' : 'other {what}s'"
    colour = {"field": "kind", "type": "nominal", "sort": ["front", "other"],
              "scale": {"domain": ["front", "other"], "range": [FRONT, REST]},
              "legend": {"title": None, "labelExpr": said}}
    only = [{"filter": "datum.kind == 'front'"}]
    drawn: list[Spec] = [
        {"transform": only, "mark": {"type": "line", "interpolate": "step-after", "strokeWidth": 1.6, "color": FRONT},
         "encoding": {"x": x, "y": y}},
        {"mark": {"type": "point", "filled": True, "size": 90, "opacity": 0.9},
         "encoding": {"x": x, "y": y, "color": colour}},
        {"transform": [] if all_labels else only, "mark": {"type": "text", "dy": -12, "fontSize": 11, "color": INK},
         "encoding": {"x": x, "y": y, "text": {"field": "label", "type": "nominal"}}}]
    words = "; ".join(f"{what} {label}: {x:.3g}, {y:.3g}" for label, x, y in points if label in front)
    return _spec(f"Pareto front of {len(values)} {what}s. {words}.", 520, 340, data={"values": values},
                layer=[*drawn, *layers])


def pareto(groups: Sequence[Group]) -> Chart | None:
    """Distance to the retrained model's forget score against utility; None where no audits have both."""
    names = tables.axes([v for g in groups for v in g.views])
    if names is None or len(groups) < 2:
        return None
    points = []
    for one in groups:
        pairs = [(x, y) for v in one.views if v.audit for x in [v.audit.score(names[0])]
                 for y in [v.audit.score(names[1])] if x and y and finite([x.value]) and finite([y.value])
                 and x.controls.get("retrained") is not None]
        if pairs:
            far = abs(fmean(float(x.value or 0) for x, _ in pairs) - fmean(float(x.controls["retrained"] or 0)
                                                                          for x, _ in pairs))
            points.append((one.letter, far, fmean(float(y.value or 0) for _, y in pairs)))
    if len(points) < 2:
        return None
    front = [label for label, _, _ in unbeaten(points, lambda p: (-p[1], p[2]))]
    return chart("pareto", front_chart(points, front, f"{names[0]}: distance to the retrained model's",
                                       f"{names[1]} (higher = kept more)", what="group"), "Pareto front",
                 "Means over seeds. A group on the line is beaten by no other in both: none is as near to the "
                 "retrained model and keeps as much.")


def curves(groups: Sequence[Group]) -> list[Chart]:
    """What the monitor read while each group trained: forget probability and utility, the median over seeds."""
    found = []
    for name, title in (("forget", "Forget probability while training"), ("utility", "Utility while training")):
        series = {f"{g.letter}: {g.title}": points for g in groups[:MOST_CURVES]
                  if len(points := _readings(g.views, name)) > 1}
        if series:
            more = f" The first {MOST_CURVES} groups." if len(groups) > MOST_CURVES else ""
            found.append(chart(f"several-{name}", curve_chart(title, series), title,
                               "Read by the monitor on some rows; the median over seeds." + more))
    return found


def _readings(views: Sequence[RunView], name: str) -> list[tuple[float, float]]:
    """(step, median over runs) of the monitor's readings; of several stages those of the last."""
    read: dict[float, list[float]] = {}
    for view in views:
        start = view.record.best.get("start", {}).get(name) if view.record else None
        if finite([start]):
            read.setdefault(0.0, []).append(float(start))  # type: ignore[arg-type]
        for line in view.steps:
            value = line["eval"].get(name) if isinstance(line.get("eval"), dict) else None
            if finite([value, line.get("step")]) and value is not None:
                read.setdefault(float(line["step"]), []).append(float(value))
    return [(step, median(values)) for step, values in sorted(read.items())]


def curve_chart(title: str, series: Mapping[str, Sequence[tuple[float, float]]]) -> Spec:
    """One chart with a curve for each; colour and dash tell them apart."""
    names = list(series)
    values = [{"group": n, "step": _short(s), "value": _short(v)} for n in names for s, v in series[n]]
    ends = "; ".join(f"{n} ends at {series[n][-1][1]:.3g}" for n in names)
    encoding: Spec = {
        "x": _axis("step", "step", axis={"tickCount": 6, "format": "~s"}, scale={"nice": False}),
        "y": _axis("value", "", scale={"zero": False}, axis={"tickCount": 5, "title": None}),
        "color": {"field": "group", "type": "nominal", "sort": names,
                  "legend": {"columns": 1 if len(names) < 4 else 2, "symbolType": "stroke"},
                  "scale": {"domain": names, "range": [PALETTE[i % len(PALETTE)] for i in range(len(names))]}},
        "strokeDash": {"field": "group", "type": "nominal", "sort": names, "scale": {
            "domain": names, "range": [DASHES[i // len(PALETTE) % len(DASHES)] for i in range(len(names))]}}}
    return _spec(f"{title}: {ends}.", 520, 260, data={"values": values}, encoding=encoding,
                mark={"type": "line", "strokeWidth": 2, "point": {"size": 22}})
