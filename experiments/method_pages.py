"""What the page of a method says beside its card: a picture of its gradient, published settings, cost and results.

`site_pages.py` puts it on the page of every plug-in that a recipe may name. Everything is computed from the code and
from results/ when the site is built.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from statistics import median
from typing import Any

from common import RESULTS, standing
from pushes import picture
from readme import LEAGUE_COLUMNS, TOFU_COLUMNS, by_recipe

from expunge.plugin import KINDS
from expunge.presets import PRESETS, PublishedSetting
from expunge.records.base import read_json
from expunge.registry import Entry
from expunge.report.leaderboard import table
from expunge.terms import parse_sum

ATTACKS = "../results.md#every-method-under-every-attack-experimentsattackspy"
STRONGEST = 6
"""Attacks in the table of what a method does not survive."""


def sections(entry: Entry) -> str:
    """Everything below, as Markdown; empty for what no recipe names."""
    if not KINDS[entry.kind].method:
        return ""
    settings = published(entry.name) if entry.kind != "optimizer" else ""  # nearly all of them name one
    parts = (("The push on a token", picture(entry)), ("Published settings", settings),
             ("What it costs", cost(entry.name)), ("In the league", league(entry.name)),
             ("What it survives", survives(entry.name)))
    return "\n\n".join(f"## {title}\n\n{text}" for title, text in parts if text)


def named(recipe: str) -> set[str]:
    """The plug-ins of a recipe."""
    return {call.name for stage in parse_sum(recipe) for call in stage}


def published(name: str) -> str:
    """Presets that name it."""
    def uses(one: PublishedSetting) -> bool:
        return one.name.partition("/")[0] == name or (bool(one.recipe) and name in named(one.recipe))

    rows = [{"setting": f"`{one.name}`", "benchmark": one.benchmark, "model": one.model,
             "recipe": f"`{one.recipe}`" if one.recipe else f"not reachable: {one.defect}",
             "options": ", ".join(f"{k} {v}" for k, v in one.options.items()), "source": one.source}
            for one in PRESETS if uses(one)]
    return table(rows, list(rows[0])) if rows else ""


@cache
def stored(name: str) -> dict[str, Any]:
    return read_json(RESULTS / f"{name}.json")


def rows_of(name: str, result: str = "league") -> list[dict[str, Any]]:
    """Stored rows of the recipes that are named after it."""
    return [row for row in stored(result)["rows"] if name in row["base"].split(" + ")]


def cost(name: str) -> str:
    """Median seconds and peak memory in the league, beside plain ascent's."""
    parts = []
    plain = median(row["train_s"] for row in rows_of("ga") if row["scores"])
    for base in dict.fromkeys(row["base"] for row in rows_of(name)):
        seconds = [row["train_s"] for row in rows_of(name) if row["base"] == base and row["scores"]]
        if seconds:
            parts.append(f"`{base}`: {median(seconds):.1f} s to unlearn, {median(seconds) / plain:.1f} times `ga`; "
                         f"{megabytes(base)} at the peak (`ga` {megabytes('ga')}).")
    return "In the league below, as medians. Seconds depend on when a recipe stops.\n\n" + "\n".join(
        f"- {part}" for part in parts) if parts else ""


def megabytes(base: str) -> str:
    peak = stored("league")["peak_memory_bytes"].get(base)
    return f"{peak / 1e6:.0f} MB" if peak else "memory not measured"


def league(name: str) -> str:
    """Its rows of the league on `authors` with its place, and of the one on TOFU."""
    parts = []
    if rows := rows_of(name):
        parts.append(f"Tuned on one world and run on three others of `authors`. {places(rows)} "
                     f"Recipes: {', '.join(dict.fromkeys('`' + row['recipe'] + '`' for row in rows))}.\n\n" + by_recipe(
                         [row | {"peak": stored("league")["peak_memory_bytes"].get(row["base"], 0)} for row in rows],
                         LEAGUE_COLUMNS, head="method"))
    if rows := rows_of(name, "league_tofu"):
        parts.append("On `tofu:forget10`:\n\n" + by_recipe(rows, TOFU_COLUMNS, head="method"))
    return "\n\n".join(parts) + "\n\nAll methods: [results](../results.md)." if parts else ""


def places(rows: Sequence[dict[str, Any]]) -> str:
    """Where these recipes stand among all of the league."""
    ranked = sorted(dict.fromkeys(row["base"] for row in stored("league")["rows"]), reverse=True,
                    key=lambda base: standing([r for r in stored("league")["rows"] if r["base"] == base]))
    found = [f"`{base}` is number {ranked.index(base) + 1}" for base in dict.fromkeys(row["base"] for row in rows)]
    return f"{' and '.join(found)} of {len(ranked)}."


def survives(name: str) -> str:
    """Stored attacks: how many bring the rows back, and the strongest."""
    matrix = stored("attacks")["matrix"]
    access = {attack["label"]: attack["access"] for attack in matrix["attacks"]}
    parts = []
    for base in (m for m in matrix["methods"] if name in m.split(" + ")):
        cells = [c for c in matrix["cells"] if c["method"] == base and c["attack"] and c.get("excess") is not None]
        if not cells:
            continue
        won = sum(c["leaks"] > 0 for c in cells)
        strongest = sorted(cells, key=lambda c: -c["excess"])[:STRONGEST]
        lines = [{"attack": f"`{c['attack']}`", "access": access[c["attack"]],
                  "forget probability": f"{c['value']:.2f}", "retrained, same attack": f"{c['control']:.2f}",
                  "excess": f"{c['excess']:.2f}",
                  "succeeded": "yes" if c["leaks"] else "no"} for c in strongest]
        parts.append(f"`{base}` on `authors`: {won} of {len(cells)} attacks succeed. Those with the largest excess:\n\n"
                     + table(lines, list(lines[0])))
    return "\n\n".join([*parts, f"When an attack succeeds, and all of them: [results]({ATTACKS})."]) if parts else ""
