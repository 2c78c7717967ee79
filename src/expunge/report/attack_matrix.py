"""Methods against attacks: what each attack brings out of what each method left, as data and as a picture.

The data are plain JSON: `{"metric", "methods": [...], "attacks": [{"label", "access"}, ...], "cells": [...]}` with one
cell per attack and method that has any evidence; `attack` None is the model left alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any

from expunge.records.score import ACCESS, Audit, Score
from expunge.report.attack_charts import LEAK, LESS
from expunge.report.charts import INK, Spec, _short, _spec, to_file_svg

METRIC = "forget.probability"
ALONE = "left alone"
READABLE = 600
"""Cells with their figures written in; beyond that the colour has to do."""
PAPER = "#1d2330"


def matrix(audits: Iterable[tuple[str, Audit]], metric: str = METRIC) -> dict[str, Any]:
    """One cell per method and attack: excess over the control, and its share of what there was to recover.

    Args:
        audits: (method, audit); audits of one method are its seeds, of which the mean and the range are given.
        metric: the score to show, as it is called in the audits.
    """
    gathered: dict[tuple[str | None, str], list[dict[str, Any]]] = {}
    access: dict[str | None, str] = {None: "none"}
    methods: dict[str, None] = {}
    for method, audit in audits:
        methods[method] = None
        needed = {label: a.access for a in audit.attacks for label in a.labels}
        for score in audit.scores:
            if score.name == metric:
                access.setdefault(score.attack, needed.get(score.attack or "", score.access))
                gathered.setdefault((score.attack, method), []).append(_cell(score))
    order = {name: i for i, name in enumerate(("none", *ACCESS))}
    attacks = sorted(access, key=lambda label: order[access[label]])
    cells = [{"method": method, "attack": label, **_merged(found)}
             for label in attacks for method in methods if (found := gathered.get((label, method)))]
    return {"metric": metric, "methods": list(methods),
            "attacks": [{"label": label, "access": access[label]} for label in attacks], "cells": cells}


def _cell(score: Score) -> dict[str, Any]:
    if score.value is None:
        return {"unavailable": score.unavailable or "no reason was recorded"}
    named = score.control
    beside = None if named is None else named[1]
    excess, interval = score.excess, score.excess_interval
    if score.attack is None and beside is not None:
        excess = score.value - beside
        interval = None if score.interval is None else (score.interval[0] - beside, score.interval[1] - beside)
    if excess is None:
        return {"unavailable": "there was no control to compare with", "value": score.value}
    lone = score.model_copy(update={"excess": excess})
    return {"excess": excess, "interval": interval, "value": score.value, "before": score.before, "control": beside,
            "original": score.controls.get("original"), "share": lone.share, "leaks": int(score.succeeded), "seeds": 1}


def _merged(cells: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One cell as it is; several seeds as means, with the range of their excesses in place of the interval."""
    known = [c for c in cells if "excess" in c]
    if not known:
        return dict(cells[0])
    if len(known) == 1:
        return dict(known[0])
    merged: dict[str, Any] = {}
    for key in ("excess", "value", "before", "control", "original", "share"):
        values = [c[key] for c in known if c[key] is not None]
        merged[key] = fmean(values) if values else None
    spread = [c["excess"] for c in known]
    return merged | {"interval": (min(spread), max(spread)), "leaks": sum(c["leaks"] for c in known),
                     "seeds": len(known)}


def colour(cell: Mapping[str, Any]) -> float | None:
    """What a cell is coloured by, -1 to 1: the share, or the bare excess where there was nothing to recover."""
    value = cell.get("share") if cell.get("share") is not None else cell.get("excess")
    return None if value is None else max(-1.0, min(1.0, float(value)))


def reason(cell: Mapping[str, Any] | None, metric: str) -> str:
    """What a cell says when it is pointed at."""
    if cell is None:
        return "not asked for"
    if "excess" not in cell:
        return f"not available: {cell['unavailable']}"
    low_high = "" if not cell["interval"] else f" [{cell['interval'][0]:.3f}, {cell['interval'][1]:.3f}]"
    seeds = f", mean and range of {cell['seeds']} seeds" if cell["seeds"] > 1 else ""
    part = "" if cell["share"] is None else f", {cell['share']:.0%} of what there was to recover"
    before = "" if cell["before"] is None else f"{cell['before']:.3f} before, "
    return (f"{metric} {before}{cell['value']:.3f}, control {cell['control']:.3f}: "
            f"excess {cell['excess']:.3f}{low_high}{part}{seeds}")


def heat_map(found: Mapping[str, Any]) -> Spec:
    """The picture of a matrix: attacks down, methods across; the excess in figures, its share as colour."""
    written = len(found["methods"]) * len(found["attacks"]) <= READABLE
    cells = {(c["attack"], c["method"]): c for c in found["cells"]}
    values = []
    for attack in found["attacks"]:
        for method in found["methods"]:
            cell = cells.get((attack["label"], method), {})
            shade = colour(cell)
            values.append({
                "attack": attack["label"] or ALONE, "method": method,
                "shade": None if shade is None else _short(shade),
                "text": "–" if shade is None else f"{round(cell['excess'], 2) + 0.0:.2f}".replace("-", "−"),
                "won": bool(cell.get("leaks"))})
    x = {"field": "method", "type": "nominal", "sort": list(found["methods"]), "title": None,
         "axis": {"orient": "top", "labelAngle": -35, "labelLimit": 200, "domain": False, "ticks": False}}
    y = {"field": "attack", "type": "nominal", "sort": [a["label"] or ALONE for a in found["attacks"]], "title": None,
         "axis": {"labelLimit": 260, "domain": False, "ticks": False}}
    scale = {"domain": [-1, 0, 1], "range": [LESS, "#eceef1", LEAK], "interpolate": "rgb"}
    layers: list[Spec] = [
        {"transform": [{"filter": "!isValid(datum.shade)"}],
         "mark": {"type": "rect", "fill": "#8a8f98", "fillOpacity": 0.25}, "encoding": {"x": x, "y": y}},
        {"transform": [{"filter": "isValid(datum.shade)"}], "mark": "rect",
         "encoding": {"x": x, "y": y, "color": {"field": "shade", "type": "quantitative", "scale": scale,
                                                "legend": None}}},
        {"transform": [{"filter": "datum.won"}],
         "mark": {"type": "rect", "fillOpacity": 0, "stroke": INK, "strokeWidth": 1.6},
         "encoding": {"x": x, "y": y}},
    ]
    if written:
        layers += [{"transform": [{"filter": f"{no}isValid(datum.shade)"}],
                    "mark": {"type": "text", "fontSize": 11, "color": ink},
                    "encoding": {"x": x, "y": y, "text": {"field": "text", "type": "nominal"}}}
                   for no, ink in (("", PAPER), ("!", INK))]
    won = sum(v["won"] for v in values)
    return _spec(f"Excess in {found['metric']} over the control, {len(found['methods'])} methods against "
                 f"{len(found['attacks']) - 1} attacks; {won} framed cells are attacks that succeeded.",
                 (52 if written else 26) * max(1, len(found["methods"])), 22 * max(1, len(found["attacks"])),
                 data={"values": values}, layer=layers)


def svg(found: Mapping[str, Any]) -> str:
    """A file of its own for a README, in ink that follows the reader's colour scheme."""
    return to_file_svg(heat_map(found))
