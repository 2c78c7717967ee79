"""The tables of the studies that look or edit inside a model, and of the TOFU runs of six epochs."""

from __future__ import annotations

import statistics
from typing import Any

from cells import number, results

from expunge.report.leaderboard import table


def real_edits() -> str:
    """Means over edits, of the statements that the model knows and of all."""
    rows = results("real_edits")["table"]
    known = {row["name"]: row["edits"] for row in rows if row["known"]}
    lines = [{"edit": f"`{row['recipe']}`", "statements": "known" if row["known"] else "known and likelier",
              "edits": str(row["edits"]),
              **{of: number(row[of]) for of in ("efficacy", "reliability", "generalisation", "locality")},
              "seconds of one core": f"{row['cpu_s']:.0f}"} for row in rows
             if row["known"] or row["edits"] > known[row["name"]]]
    return table(lines, list(lines[0]))


def league_tofu_six() -> str:
    """Both runs of each method, the better first, and methods by their better run."""
    rows = [r for r in results("league_tofu_six")["rows"] if r["scores"]]
    best = {name: max(r["rank"] for r in rows if r["name"] == name) for name in {r["name"] for r in rows}}
    lines: list[dict[str, Any]] = []
    for row in sorted(rows, key=lambda r: (-best[r["name"]], r["name"], -r["rank"])):
        scores, controls = row["scores"], row["controls"]
        rate = row["settings"].get("lr")
        lines.append({
            "method": f"`{row['recipe']}`", "rate": "-" if rate is None else f"{rate:g}",
            "leak share": number(scores["leak_share"]), "retain kept": number(row["kept"]),
            "forget probability": number(scores["forget.probability"]),
            "retrained": number(controls["forget.probability"].get("retrained")),
            "forget ROUGE-L": number(scores["forget.rouge_l"]), "forget quality p": number(scores["forget_quality"]),
            "seconds": f"{row['train_s']:.0f}"})
    return table(lines, list(lines[0]))


def meta_inside() -> str:
    """Faithfulness of each metric, its worst pair of kinds, and its mean over groups of models."""
    found, lines = results("meta_inside"), []
    pool = [m for m in found["models"] if m["role"] == "pool"]
    unlearned = [m for m in found["models"] if m["role"] == "unlearned"]
    for name, row in sorted(found["table"].items(), key=lambda pair: -pair[1]["faithfulness"]):
        low, high = row["faithfulness_interval"]
        lines.append({
            "metric": f"`{name}`", "faithfulness": f"{row['faithfulness']:.2f} [{low:.2f}, {high:.2f}]",
            "worst pair of kinds": f"{row['worst_fold']}: {row['worst_fold_auc']:.2f}",
            "knowing": _mean(name, [m for m in pool if m["knows"]]),
            "ignorant": _mean(name, [m for m in pool if not m["knows"]]), "unlearned": _mean(name, unlearned),
            "relearned": _mean(name, unlearned, "relearned"), "4 bits": _mean(name, unlearned, "quantised")})
    return table(lines, list(lines[0]))


def _mean(name: str, models: list[dict[str, Any]], condition: str = "plain") -> str:
    values = [m["readings"][condition][name] for m in models]
    return number(statistics.fmean(v for v in values if v is not None))
