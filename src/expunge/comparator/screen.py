"""What runs are screened by: one figure each of forgetting, utility, privacy and cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from expunge.comparator.membership import privacy_score
from expunge.comparator.models import ComparedModel, by_role, short
from expunge.comparator.rows import AskedRows
from expunge.records.score import Score
from expunge.report.gather import finite

DIMENSIONS = {
    "forget": ("Forgetting", ("forget.probability", "forget.rouge_l", "forget.truth_ratio", "forget_quality",
                              "leak_share", "forget.accuracy")),
    "utility": ("Utility", ("model_utility", "retain.probability", "retain.rouge_l", "utility.probability",
                            "retain.accuracy", "utility.accuracy")),
    "privacy": ("Privacy", ("privacy_score", "privleak", "mia.loss", "mia.min_k", "mia.min_k_pp", "mia.zlib")),
    "cost": ("Cost", ("train_s", "of_retraining", "peak_memory_gb")),
}
"""Dimension -> its name, and the scores it may be measured by; the first that a run has is chosen at first."""
COSTS = {"train_s": "seconds of training", "of_retraining": "share of the cost of training anew",
         "peak_memory_gb": "GB of memory at the peak"}
PRIVACY = "privacy_score"


@dataclass(frozen=True)
class FigureChoice:
    """One way to measure a dimension."""

    name: str
    title: str
    better: str
    """low or high"""
    values: Mapping[str, float | None]
    """Model -> figure."""


def dimensions(models: Sequence[ComparedModel], found: Mapping[str, AskedRows]) -> list[dict[str, Any]]:
    """Every dimension with the ways to measure it, of which some run has a figure."""
    made = []
    for key, (title, names) in DIMENSIONS.items():
        choices = [c for name in names if (c := _choice(name, models, found))]
        made.append({"key": key, "title": title, "choices": [
            {"name": c.name, "title": c.title, "better": c.better, "values": dict(c.values)} for c in choices]})
    return made


def _choice(name: str, models: Sequence[ComparedModel], found: Mapping[str, AskedRows]) -> FigureChoice | None:
    runs = [m for m in models if m.kind == "run"]
    if name in COSTS:
        made = FigureChoice(name, COSTS[name], "low", {m.key: short(_cost(m, name)) for m in runs})
    elif name == PRIVACY:
        made = FigureChoice(name, "privacy score beside the retrained model", "high",
                      {m.key: short(_privacy(m, models, found)) for m in models})
    else:
        scores = {m.key: s for m in runs if m.view.audit and (s := m.view.audit.score(name)) and finite([s.value])}
        if not scores:
            return None
        made = _scored(name, scores, models)
    return made if any(made.values.get(m.key) is not None for m in runs) else None


def _scored(name: str, scores: Mapping[str, Score], models: Sequence[ComparedModel]) -> FigureChoice:
    """Of what should stay, the value; of the rest, the distance to a model that never saw the forget set."""
    first = next(iter(scores.values()))
    values = {key: s.value for key, s in scores.items()}
    for m in models:
        controls = m.view.audit.score(name) if m.kind != "run" and m.view.audit else None
        if controls is not None and m.key == m.kind:  # a second retrained model has no value of its own
            values[m.key] = controls.controls.get(m.kind)
    utility = name in DIMENSIONS["utility"][1]
    targets = {key: s.controls.get("retrained") if s.ideal == "reference" or name.startswith("mia.") else s.ideal
               for key, s in scores.items()}
    known = finite(targets.values())
    if utility or len(known) < len(scores):
        better = "high" if utility or first.higher_is == "forgot" else "low"
        return FigureChoice(name, name, better, {key: short(v) for key, v in values.items()})
    where = "the retrained model's" if first.ideal == "reference" or name.startswith("mia.") else f"{known[0]:g}"
    far = {key: None if v is None else short(abs(v - float(targets.get(key) if key in targets else known[0])))  # type: ignore[arg-type]
           for key, v in values.items()}
    return FigureChoice(name, f"{name}: distance to {where}", "low", far)


def _cost(model: ComparedModel, name: str) -> float | None:
    record = model.view.record
    if record is None:
        return None
    if name == "peak_memory_gb":
        return record.peak_memory_bytes / 1e9 or None
    return record.timing.get(name)


def _privacy(model: ComparedModel, models: Sequence[ComparedModel], found: Mapping[str, AskedRows]) -> float | None:
    """Beside the first retrained model of its audit; the retrained model itself beside another, where there is one."""
    beside = by_role(models, model.view).get("retrained")
    if beside is None or beside.key == model.key:
        return None
    mine, other = found[model.key].member, found[beside.key].member
    common = {name: [k for k in mine[name] if k[0] == "forget" and k in other[name]] for name in mine if name in other}
    return privacy_score({name: [mine[name][k] for k in keys] for name, keys in common.items()},
                         {name: [other[name][k] for k in keys] for name, keys in common.items()})
