"""Charts of attacks: excesses with their intervals, values over strength or layer, methods against attacks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from expunge.report.attacks import AttackRow, Lines
from expunge.report.charts import COLOURS, DASHES, INK, SHAPES, Spec, _axis, _short, _spec

LEAK, QUIET, LESS = "#d9640b", "#8a8f98", "#6b84a8"


def excess_dots(name: str, rows: Sequence[AttackRow]) -> Spec:
    """Excess over the control, one line per attack in the order given, with 95 % intervals."""
    values = []
    for row in rows:
        low, high = row.score.excess_interval or (0.0, 0.0)
        values.append({"attack": row.score.attack, "x": _short(row.score.excess or 0.0), "x0": _short(low),
                       "x1": _short(high), "kind": "succeeded" if row.leak else "did not"})
    y = {"field": "attack", "type": "nominal", "sort": None, "title": None,
         "axis": {"labelLimit": 210, "domain": False, "ticks": False}}
    x = _axis("x", f"excess in {name} over the control", axis={"tickCount": 5})
    kinds = {"domain": ["succeeded", "did not"], "range": [LEAK, QUIET]}
    colour = {"field": "kind", "type": "nominal", "scale": kinds, "legend": None}
    shape = {"field": "kind", "type": "nominal", "legend": None,
             "scale": {"domain": kinds["domain"], "range": ["circle", "diamond"]}}
    layers: list[Spec] = [
        {"data": {"values": [{"zero": 0}]}, "mark": {"type": "rule", "color": INK, "opacity": 0.6},
         "encoding": {"x": _axis("zero", f"excess in {name} over the control")}},
        {"mark": {"type": "rule", "strokeWidth": 2, "opacity": 0.8},
         "encoding": {"x": {**x, "field": "x0"}, "x2": {"field": "x1"}, "y": y, "color": colour}},
        {"mark": {"type": "point", "filled": True, "size": 80, "opacity": 1},
         "encoding": {"x": x, "y": y, "color": colour, "shape": shape}},
    ]
    told = "; ".join(f"{v['attack']} {v['x']:.3g}" for v in values[:6])
    return _spec(f"Excess in {name} over the control, with 95 % intervals: {told}.", 300, max(40, 21 * len(rows)),
                 data={"values": values}, layer=layers)


def lines(found: Lines) -> Spec:
    """One small chart: a line per model, intervals as rules, levels as dashed lines across."""
    values = [{"who": who, "x": _short(x), "y": _short(y), **({"y0": _short(i[0]), "y1": _short(i[1])} if i else {})}
              for who, points in found.lines.items() for x, y, i in points]
    levels = [{"who": who, "y": _short(y)} for who, y in found.levels.items()]
    names = [n for n in COLOURS if n in found.lines or n in found.levels]
    layers_seen = sorted({x for points in found.lines.values() for x, _, _ in points})
    ticks: Spec = {"tickCount": 5} if found.x_title != "layer" else {  # between two layers there is none
        "values": layers_seen[::len(layers_seen) // 8 + 1], "format": "d"}
    x = _axis("x", found.x_title, scale={"zero": found.x_title != "layer", "nice": False}, axis=ticks)
    y = {"type": "quantitative", "title": None, "scale": {"zero": found.x_title != "layer"}, "axis": {"tickCount": 4}}

    def by(values: dict[str, Any]) -> Spec:  # the page has one key for all of these charts
        return {"field": "who", "type": "nominal", "sort": names, "legend": None,
                "scale": {"domain": names, "range": [values[n] for n in names]}}

    colour, dash = by(COLOURS), by(DASHES)
    layers: list[Spec] = [
        {"transform": [{"filter": "isValid(datum.y0)"}], "mark": {"type": "rule", "strokeWidth": 1.5, "opacity": 0.6},
         "encoding": {"x": x, "y": {**y, "field": "y0"}, "y2": {"field": "y1"}, "color": colour}},
        {"mark": {"type": "line", "strokeWidth": 2}, "encoding": {"x": x, "y": {**y, "field": "y"}, "color": colour,
                                                                  "strokeDash": dash}},
        {"mark": {"type": "point", "filled": True, "size": 45, "opacity": 1},
         "encoding": {"x": x, "y": {**y, "field": "y"}, "color": colour, "shape": by(SHAPES)}},
    ]
    if levels:
        layers.append({"data": {"values": levels}, "mark": {"type": "rule", "strokeWidth": 1.5},
                       "encoding": {"y": {**y, "field": "y"}, "color": colour, "strokeDash": dash}})
    ends = "; ".join(f"{who} from {points[0][1]:.3g} to {points[-1][1]:.3g}" for who, points in found.lines.items())
    return _spec(f"{found.title} over {found.x_title}: {ends}.", 250, 150, data={"values": values}, layer=layers)
