"""The table of the meta-evaluation from stored readings alone: no model is needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import product
from math import exp
from typing import Any

import numpy as np

from expunge.judgement.trust import (
    HeldOut,
    Known,
    Readings,
    Robustness,
    Trust,
    fitted,
    held_out_values,
    likeness,
    trust,
)
from expunge.metrics.margins import ControlMargin, Sureness, beyond, left_out
from expunge.metrics.statistics import harmonic_mean
from expunge.report.leaderboard import table

CONDITIONS = {"relearned": "relearn(on=forget, rank=0, steps=7)", "quantised": "quantise(bits=4, form=nf4)"}
"""The published ones: one epoch on the forget rows with all weights, and rounding to four bits."""
UTILITY = "retain.probability"
UTILITY_DROP = 0.2
PROBABILITY, TRUTH = "forget.probability", "forget.truth_ratio(variant=geometric, aggregate=prob_mean)"
LEAK, ALONE = "leak_share", "leak_share (controls left alone)"
"""Controls are attacked like the model, as in an audit, or stay as they are."""
FACT, LEAK_FACT = "bare fact log-odds", "leak_share of the bare fact"
"""The same of the tokens that spell the bare fact only: what stands around it is left out."""
RIGHT = "truth ratio above every control"
"""Share of questions whose log(right / wrong answers) lies above that of every control, attacked alike; by chance 1 of
4, since there are three."""
RIGHT_MARGIN = "mean log(right / wrong answers)"
FITTED = "probability and truth ratio, fitted"
"""Probability of knowing, by a logistic regression on both."""
ODDS, FITTED_ODDS = "answer log-odds", "answer log-odds and truth ratio, fitted"
"""ODDS: mean over rows of the log-odds of the answer. FITTED_ODDS: log-odds of knowing, by a logistic regression on
ODDS and the mean of log(right / wrong answers). Both are laid on 0..1 by `level`."""
SPAN = 12.0
"""Log-odds, in nats, that stand for 0 (its negative) and 1."""
CONSTANT, SQUEEZED = "constant", "(1 + forget.probability) / 2"
"""What the procedure gives to a metric that says the same of every model, and to one on a narrower scale."""
TARGET = {"faithfulness": 0.98, "robustness": 0.93, "worst fold": 0.95}
CHECKS = (CONSTANT, SQUEEZED)
"""They show what the scores do not see, and cannot be the headline."""
DIGITS = 5
PUBLISHED = {
    "unlearning depth score": {"faithfulness": 0.971, "robustness": 0.932, "R": 0.900, "Q": 0.968},
    "truth ratio": {"faithfulness": 0.947, "robustness": 0.379, "R": 0.234, "Q": 0.996},
    "extraction strength": {"faithfulness": 0.891, "robustness": 0.859, "R": 0.770, "Q": 0.970},
}
"""As the depth score's study has them (arXiv 2605.24614, symmetric protocol): 60 and 150 models of Llama-3.2-1B on
TOFU. They are not our models."""
DEPTH = "uds"
Gains = Mapping[str, Sequence[float]]
Metrics = dict[str, dict[str, float]]
"""Condition -> metric -> value."""


def judged(found: Mapping[str, Any], resamples: int = 1000) -> dict[str, dict[str, Any]]:
    """Metric -> its figures, as results/meta.json has them under `table`, best first."""
    controls = controls_of(found["models"])
    models = {name: model | {"metrics": values(found, name, controls)} for name, model in found["models"].items()}
    pool = {name: m for name, m in models.items() if m["role"] == "pool"}
    floors = {m["size"]: (1 - UTILITY_DROP) * m["metrics"]["plain"][UTILITY]
              for m in models.values() if m["role"] == "original"}
    cases = {name: m for name, m in models.items()
             if m["role"] == "unlearned" and m["metrics"]["plain"][UTILITY] >= floors[m["size"]]}
    held_out = {FITTED: combine(FITTED, (PROBABILITY, TRUTH), pool, models),
                FITTED_ODDS: combine(FITTED_ODDS, (ODDS, RIGHT_MARGIN), pool, models)}
    table = {}
    for metric in next(iter(pool.values()))["metrics"]["plain"]:
        if metric not in (UTILITY, RIGHT_MARGIN):
            gains = gains_of(metric, pool)
            table[metric] = shown(judge(metric, pool, cases, gains, held_out.get(metric), resamples)) | {
                "retrained": rounded(of_retrained(metric, models, gains))}
    return dict(sorted(table.items(), key=lambda item: _rank(item[1])))


def judge(metric: str, pool: Mapping[str, Any], cases: Mapping[str, Any], gains: Gains, held_out: HeldOut | None,
          resamples: int) -> Trust:
    """One metric by its readings; models of which it says nothing under some condition are left out."""
    pool, cases = ({name: m for name, m in each.items()
                    if all(reading[metric] is not None for reading in m["metrics"].values())} for each in (pool, cases))
    known = [Known(m["kind"], m["knows"], m["metrics"]["plain"][metric], m["size"]) for m in pool.values()]
    unlearned = [Readings(*(m["metrics"][c][metric] for c in ("plain", *CONDITIONS)), m["recipe"], m["size"])
                 for m in cases.values()]
    return trust(known, unlearned, gains, held_out=held_out, resamples=resamples)


def gains_of(metric: str, pool: Mapping[str, Any]) -> Gains:
    """Size -> what the metric gains by relearning in the retrained models of the pool that went through it."""
    gains: dict[str, list[float]] = {}
    for m in pool.values():
        if "relearned" in m["metrics"]:
            gains.setdefault(m["size"], []).append(m["metrics"]["relearned"][metric] - m["metrics"]["plain"][metric])
    return gains


def of_retrained(metric: str, models: Mapping[str, Any], gains: Gains) -> float | None:
    """Symmetric robustness with the retrained controls in the place of unlearned models: what perfect unlearning would
    get. None for metrics that are set against these very models."""
    cells = [m for m in models.values() if m["role"] == "control"]
    if metric == DEPTH or not all(metric in m["metrics"]["plain"] for m in cells):
        return None
    plain, relearned, quantised = (np.asarray([m["metrics"][c][metric] for m in cells]) for c in ("plain", *CONDITIONS))
    allowed = np.asarray([np.mean(gains[m["size"]]) for m in cells])
    return harmonic_mean([float(likeness(relearned - plain, allowed).mean()),
                          float(likeness(quantised, plain).mean())])


Controls = dict[tuple[str, str, str], tuple[list[Sureness], ControlMargin]]
"""(size, kind of rows, condition) -> rows of each control, and the margin that these give."""


def controls_of(models: Mapping[str, Any]) -> Controls:
    cells: dict[tuple[str, str, str], list[Sureness]] = {}
    for m in models.values():
        if m["role"] == "control":
            for rows, condition in product(("sureness", "fact", "truth"), ("plain", *CONDITIONS)):
                cells.setdefault((m["size"], rows, condition), []).append(numbered(m[rows][condition]))
    return {key: (each, left_out(each)) for key, each in cells.items()}


def values(found: Mapping[str, Any], name: str, controls: Controls) -> Metrics:
    """Everything read of one model, and what follows from its rows and those of the controls of its size."""
    model = found["models"][name]
    metrics: Metrics = {}
    for condition, read in model["readings"].items():
        metrics[condition] = dict(zip(found["metrics"], read, strict=True))
        if model["role"] in ("pool", "unlearned"):
            metrics[condition] |= {LEAK: leak_share(model, controls, "sureness", condition, condition),
                                   ALONE: leak_share(model, controls, "sureness", condition, "plain"),
                                   LEAK_FACT: leak_share(model, controls, "fact", condition, condition),
                                   RIGHT: told_right(model, controls, condition)}
        metrics[condition] |= {ODDS: level(_mean(model["sureness"][condition])),
                               FACT: level(_mean(model["fact"][condition])),
                               RIGHT_MARGIN: _mean(model["truth"][condition])}
        metrics[condition] |= {CONSTANT: 0.5, SQUEEZED: (1 + metrics[condition][PROBABILITY]) / 2}
    return metrics


def leak_share(model: Mapping[str, Any], controls: Controls, rows: str, condition: str, attacked: str) -> float:
    """The metric of this name, from stored log-odds.

    Args:
        rows: "sureness", of each answer, or "fact", of each bare fact.
        condition: of the model.
        attacked: the condition of the controls: the same where they are attacked alike, "plain" where not.
    """
    beside, margin = controls[model["size"], rows, attacked]
    return float(np.mean(list(beyond(numbered(model[rows][condition]), beside, margin).over.values())))


def told_right(model: Mapping[str, Any], controls: Controls, condition: str) -> float:
    """Share of the questions whose log(right / wrong answers) lies above that of every control, attacked alike."""
    beside, _ = controls[model["size"], "truth", condition]
    rows = numbered(model["truth"][condition])
    return float(np.mean([value > max(c[key] for c in beside) for key, value in rows.items()]))


def _mean(text: str) -> float:
    return float(np.mean([float(number) for number in text.split()]))


def numbered(text: str) -> Sureness:
    return {str(i): float(number) for i, number in enumerate(text.split())}


def level(log_odds: float) -> float:
    """Log-odds from -SPAN..SPAN laid on 0..1."""
    return min(max(0.5 + log_odds / (2 * SPAN), 0.0), 1.0)


def combine(name: str, parts: Sequence[str], pool: Mapping[str, Any], models: Mapping[str, Any]) -> HeldOut:
    """Adds a fitted combination of metrics to all readings: unlearned models are judged by a fit on the whole pool, and
    the folds get values by fits without their kinds."""
    def features(metrics: Mapping[str, float]) -> Sequence[float]:
        return [metrics[part] for part in parts]

    taught = [features(m["metrics"]["plain"]) for m in pool.values()]
    cells = [metrics for m in models.values() for metrics in m["metrics"].values()]
    found = fitted(taught, [m["knows"] for m in pool.values()], [features(c) for c in cells])
    for cell, log_odds in zip(cells, found.tolist(), strict=True):
        cell[name] = level(log_odds) if name == FITTED_ODDS else 1 / (1 + exp(-log_odds))
    return held_out_values([Known(m["kind"], m["knows"], 0.0, m["size"]) for m in pool.values()], taught)


def shown(found: Trust) -> dict[str, Any]:
    """The figures as they are stored, to five digits."""
    fold, worst = found.worst_fold
    return rounded({
        "faithfulness": found.faithfulness, "faithfulness_interval": found.interval,
        "folds": {" | ".join(pair): value for pair, value in found.folds.items()},
        "worst_fold": " | ".join(fold), "worst_fold_auc": worst, "threshold": found.threshold,
        "models": found.models, "near_zero": found.near_zero,
        **{name: asdict(one) if isinstance(one := getattr(found, name), Robustness) else None
           for name in ("symmetric", "published")}})


def rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}")
    if isinstance(value, dict):
        return {key: rounded(one) for key, one in value.items()}
    return [rounded(one) for one in value] if isinstance(value, list | tuple) else value


PROTOCOLS = ("symmetric", "published")


def page(found: Mapping[str, Any]) -> str:
    """The section's table in docs/results.md, with the published figures below."""
    rows = [{"metric": f"`{name}`", "faithfulness": _between(row["faithfulness"], row["faithfulness_interval"]),
             "worst fold": f"{row['worst_fold_auc']:.2f}" + (
                 f", {row['worst_fold'].replace(' | ', ' against ')}" if row["worst_fold_auc"] < 1 else ""),
             **{title: cell for p in PROTOCOLS for title, cell in {
                 f"overall, {p}": _with(row[p], "overall"), f"robustness, {p}": _with(row[p], "robustness"),
                 f"R, Q ({p})": _parts(row[p])}.items()},
             "retrained models": "-" if row["retrained"] is None else f"{row['retrained']:.2f}",
             "models": str(row["models"])} for name, row in found["table"].items()]
    published = [{"metric": f"{name} (published)", **{k: f"{v:.3f}" for k, v in figures.items()}}
                 for name, figures in PUBLISHED.items()]
    return "\n\n".join((table(rows, list(rows[0])).strip(),
                        "Figures that the depth score's study published, by the symmetric protocol. Its models are not "
                        "ours (60 and 150 of Llama-3.2-1B on TOFU), so they cannot be set against the figures above:",
                        table(published, list(published[0]))))


def ranked(judged_table: Mapping[str, Any]) -> list[str]:
    """The metrics with enough models, best first; the first is the headline."""
    return [name for name, row in judged_table.items() if row["symmetric"] and name not in CHECKS]


def reaching(judged_table: Mapping[str, Any], protocol: str) -> list[str]:
    """The ranked metrics that reach the whole target by a protocol."""
    return [name for name in ranked(judged_table) if all(value >= TARGET[key] for key, value in {
        "faithfulness": judged_table[name]["faithfulness"], "worst fold": judged_table[name]["worst_fold_auc"],
        "robustness": judged_table[name][protocol]["robustness"]}.items())]


def finding(found: Mapping[str, Any]) -> str:
    """The headline and whether the target is reached, from the table."""
    rows = found["table"]
    if not ranked(rows):
        return "No metric has enough unlearned models for a rank.\n"
    name = ranked(rows)[0]
    row, wanted = rows[name], ", ".join(f"{key} {value}" for key, value in TARGET.items())
    return (f"**`{name}` ranks first of {len(ranked(rows))} metrics: faithfulness "
            f"{_between(row['faithfulness'], row['faithfulness_interval'])}, worst fold {row['worst_fold_auc']:.2f}, "
            f"robustness {_with(row['symmetric'], 'robustness')} by the symmetric protocol and "
            f"{_with(row['published'], 'robustness')} by the published one.** The target ({wanted}) is reached "
            + "; ".join(f"by the {protocol} protocol by {_listed(reaching(rows, protocol))}" for protocol in PROTOCOLS)
            + ".\n")


def _listed(names: Sequence[str]) -> str:
    return ", ".join(f"`{name}`" for name in names) or "none"


def _between(value: float, interval: Sequence[float]) -> str:
    return f"{value:.2f} [{interval[0]:.2f}, {interval[1]:.2f}]"


def _with(row: Mapping[str, Any] | None, key: str) -> str:
    return "too few" if row is None else _between(row[key], row[f"{key}_interval"])


def _parts(row: Mapping[str, Any] | None) -> str:
    return "" if row is None else f"{row['relearning']:.2f}, {row['quantisation']:.2f}"


def _rank(row: Mapping[str, Any]) -> tuple[float, float]:
    """Best first: by the worse of both overall scores; metrics with too few models come last, by faithfulness."""
    overall = min(row["symmetric"]["overall"], row["published"]["overall"]) if row["symmetric"] else 0.0
    return (-overall, -row["faithfulness"])
