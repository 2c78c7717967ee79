"""What the page of a method says beside its card: a picture of its gradient, published settings, cost and results.

`site_pages.py` puts it on the page of every plug-in that a recipe may name. Everything is computed from the code and
from results/ when the site is built.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from statistics import median
from typing import Any

import torch
from common import RESULTS, standing
from readme import LEAGUE_COLUMNS, TOFU_COLUMNS, by_recipe

from expunge.data.text_encoder import TokenBatch, TokenRow, collate
from expunge.errors import ExpungeError
from expunge.methods.base import Objective
from expunge.models.answers import Answers
from expunge.models.reference import Likeliest
from expunge.models.tiny import build_subject
from expunge.plugin import KINDS
from expunge.presets import PRESETS, PublishedSetting
from expunge.records.base import read_json
from expunge.registry import Entry
from expunge.report.charts import to_svg
from expunge.report.leaderboard import table
from expunge.terms import parse_sum
from expunge.training.step import Step, WeightedTerm, reduce_terms, totals, weighted_sum

REFERENCE = 0.9
"""Probability that the original gives the token, for methods that compare with it."""
GRID = torch.linspace(0.005, 0.995, 67).tolist()
CONFIG = {"model_type": "llama", "vocab_size": 300, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 2,
          "num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 64}
OPTIONS: dict[str, dict[str, Any]] = {"ce_u": {"skip": 0}}
"""Options for a picture where those by default leave out the one token there is."""
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


class Original:
    """An original that gives every supervised token probability `REFERENCE`."""

    def answers(self, batch: TokenBatch) -> Answers:
        return Answers(batch, logits(batch, REFERENCE))

    def logp(self, batch: TokenBatch) -> torch.Tensor:
        return self.answers(batch).logp_N

    def likeliest(self, batch: TokenBatch, count: int) -> Likeliest:
        return Likeliest.of(self.answers(batch).source, count)


def logits(batch: TokenBatch, probability: float) -> torch.Tensor:
    """Logits that give each supervised token this probability and share the rest equally; shape N V, float64."""
    target_N, size = batch.target_N, int(CONFIG["vocab_size"])  # type: ignore[call-overload]
    odds = probability / (1 - probability) * (size - 1)
    return torch.zeros(len(target_N), size, dtype=torch.float64).scatter(1, target_N[:, None], math.log(odds))


@cache
def bed() -> Any:
    return build_subject(CONFIG, ["a few words"])


def push(objective: Objective, probability: float) -> float:
    """d loss / d logit of the token, for an answer of one token with this probability; above 0 it is pushed down."""
    row = TokenRow("row", (1, 5, 6, 77), 3, 1, 0)
    batches = {side: collate([row], 0) for side in dict.fromkeys(("forget", *objective.reads))}
    step = Step(bed(), batches, Original())  # type: ignore[arg-type]
    now_NV = logits(batches["forget"], probability).requires_grad_(True)
    step._answers = {side: Answers(batch, now_NV if side == "forget" else logits(batch, REFERENCE))
                     for side, batch in batches.items()}
    objective.begin(0, 1)
    terms = [WeightedTerm(name, "forget", objective.spec.weight, term)
             for name, term in objective.terms(step).items()]
    loss = weighted_sum(terms, reduce_terms(terms, totals([batches])))
    assert loss is not None
    (gradient_NV,) = torch.autograd.grad(loss, now_NV)
    return float(gradient_NV[0, int(batches["forget"].target_N[0])])


def curve_of(entry: Entry) -> list[tuple[float, float]]:
    """(probability, push) over the grid; empty for a method without a push on the tokens of forget rows."""
    plugin = entry.load()
    if not issubclass(plugin, Objective) or "forget" not in plugin.reads:
        return []
    try:
        made = plugin(**OPTIONS.get(entry.name, {}))
        found = [(p, push(made, p)) for p in GRID]
    except (RuntimeError, KeyError, AttributeError, ExpungeError):  # it reads what it makes before the first step
        return []
    return found if max(abs(value) for _, value in found) > 0 else []


def picture(entry: Entry) -> str:
    """The push against the token's probability, as SVG in the page; beside it that of plain ascent, dashed."""
    found = curve_of(entry)
    if not found:
        return ""
    lines = {entry.name: found} | ({} if entry.name == "ga" else {"ga": [(p, 1 - p) for p in GRID]})
    values = [{"method": name, "p": round(p, 4), "push": round(v, 6)} for name, line in lines.items() for p, v in line]
    names, least, most = list(lines), min(found, key=lambda at: at[1]), max(found, key=lambda at: at[1])
    colours = {"domain": names, "range": ["#d9640b", "#6b84a8"][: len(names)]}
    said = f"{entry.name}: from {least[1]:.3g} at p = {least[0]:.3g} to {most[1]:.3g} at p = {most[0]:.3g}."
    spec: dict[str, Any] = {
        "$schema": "https://vega.github.io/schema/vega-lite/v5.json", "description": said, "width": 380, "height": 190,
        "background": None, "data": {"values": values}, "mark": {"type": "line", "strokeWidth": 2},
        "config": {"view": {"stroke": None}, "axis": {"labelColor": "currentColor", "titleColor": "currentColor",
                   "domainColor": "currentColor", "tickColor": "currentColor", "gridColor": "currentColor",
                   "gridOpacity": 0.13, "titleFontWeight": "normal"}},
        "encoding": {
            "x": {"field": "p", "type": "quantitative", "title": "probability of the token"},
            "y": {"field": "push", "type": "quantitative", "title": "d loss / d its logit"},
            "color": {"field": "method", "type": "nominal", "scale": colours, "legend": None},
            "strokeDash": {"field": "method", "type": "nominal", "legend": None,
                           "scale": {"domain": names, "range": [[1, 0], [5, 3]][: len(names)]}}}}
    svg = " ".join(to_svg(spec, f"push-{entry.name}").split())
    return (f"<figure>{svg}</figure>\n\n"
            f"An answer of one token in a vocabulary of {CONFIG['vocab_size']}, all other tokens equally likely, with "
            f"default options and without companions; above 0 the token is pushed down. The original gives it "
            f"{REFERENCE}. {said}{' Dashed: `ga`.' if len(names) > 1 else ''}")


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
