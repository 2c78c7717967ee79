"""The picture of an objective: how hard it pushes a token, by the probability that the model gives it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch

from expunge.data.text_encoder import TokenBatch, TokenRow, collate
from expunge.errors import ExpungeError
from expunge.methods._lib.names import FALSE
from expunge.methods.base import Objective
from expunge.models.answers import Answers
from expunge.models.reference import Likeliest
from expunge.models.tiny import build_subject
from expunge.registry import Entry
from expunge.report.charts import to_svg
from expunge.training.step import Step, WeightedTerm, reduce_terms, totals, weighted_sum

REFERENCE = 0.9
"""Probability that the original gives the token, for methods that compare with it."""
FORETOLD = 0.1
"""Probability that the model should give it, for a method that is told so."""
GRID = torch.linspace(0.005, 0.995, 67).tolist()
CONFIG = {"model_type": "llama", "vocab_size": 300, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 2,
          "num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 64}
ROW = TokenRow("row", (1, 5, 6, 77), 3, 1, 0)


@dataclass(frozen=True)
class Posed:
    """Which token is looked at, and what the objective is given in place of what it makes before the first step."""

    token: str = "An answer of one token"
    side: str = "forget"
    options: dict[str, Any] = field(default_factory=dict)
    made: dict[str, Any] = field(default_factory=dict)
    value: float = 0.0
    """Of the row, as a rollout gives it."""
    given: Callable[[Any], None] | None = None
    """Sets what else it would find out itself."""


def unknown_name(objective: Any) -> None:
    objective._roles = lambda batch: [FALSE] * len(batch.target_N)


POSED = {
    "adaptive": Posed("An unknown name of one token in an answer of the model's own", "said", given=unknown_name),
    "bidirectional": Posed("An answer of one token that the instructed original gives instead", "refused"),
    "ce_u": Posed(options={"skip": 0}),  # by default it leaves out the one token there is
    "code_eraser": Posed("A secret of one token", made={ROW.key: [True]}),
    "distil": Posed("A text of one token that the teacher is asked on", "distil"),
    "dmm": Posed(f"An answer of one token, which the regression says would get {FORETOLD} after retraining",
                 made={"targets": {"row": [math.log(FORETOLD / (1 - FORETOLD))]}}),
    "idk": Posed("A refusal of one token in place of the answer", "refusal"),
    "in_context": Posed("A reply of one token that says it forgot, behind the tag", "tagged"),
    "knowpo": Posed("A rejected answer of one token, beside a chosen one at the original's probability", "rejected"),
    "meow": Posed("An inverted answer of one token in place of the true one", "inverted"),
    "rule": Posed("A sampled answer of one token whose reward is a standard deviation below the mean", "rollout",
                  value=-1.0),
    "stepping_stones": Posed("A wrong answer of one token in place of the true one", "inverted"),
    "u2a": Posed("An answer of one token with weight 1", made={"weights": {"row": 1.0}}),
    "whp": Posed("An answer of one token, another being the generic one", made={ROW.key: [78]}),
}
"""Objectives that look at more than the answer of a forget row."""
NO_PUSH = {
    "attention_shift": "Its loss is a divergence of attention maps, so no token has a weight.",
    "cir": "Its loss is about the outputs of MLPs, which do not depend on the token that comes next.",
    "kuda": "Its loss is about the direction of hidden states, which does not depend on the token that comes next.",
    "l1_sparse": "It forgets by shrinking weights and reads no forget row; on retain rows it is plain likelihood.",
    "rmu": "Its loss is a distance of hidden states, which does not depend on the token that comes next.",
    "sae_guided": "Its loss is a distance of latents of hidden states at names, not of what comes next.",
    "probe_geometry": "Its loss is a distance of hidden states at last tokens, not of what comes next.",
    "srmu": "Its loss is a distance of hidden states, as rmu's.",
    "wpn": "It contrasts hidden states, pooled over whole answers; its likelihood term is that of a refusal, as idk's.",
}
"""Why an objective has no picture."""
NOT_KNOWN = "What it pushes is made before the first step and differs from row to row."


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
    """d loss / d logit of the token, for an answer of one token with this probability; above 0 it is pushed down.

    Every other row that the objective reads has one token too, at the original's probability.
    """
    posed = POSED.get(objective.card.name, Posed())
    objective.made = posed.made
    if posed.given:
        posed.given(objective)
    row = TokenRow(ROW.id, ROW.ids, ROW.prompt, ROW.answer, ROW.end, value=posed.value)
    batches = {side: collate([row], 0) for side in dict.fromkeys((posed.side, *objective.reads, *objective.asks))}
    step = Step(bed(), batches, Original())  # type: ignore[arg-type]
    now_NV = logits(batches[posed.side], probability).requires_grad_(True)
    step._answers = {side: Answers(batch, now_NV if side == posed.side else logits(batch, REFERENCE))
                     for side, batch in batches.items()}
    objective.begin(0, 1)
    terms = [WeightedTerm(name, "forget", objective.spec.weight, term)
             for name, term in objective.terms(step).items()]
    loss = weighted_sum(terms, reduce_terms(terms, totals([batches])))
    assert loss is not None
    (gradient_NV,) = torch.autograd.grad(loss, now_NV)
    return float(gradient_NV[0, int(batches[posed.side].target_N[0])])


def curve_of(entry: Entry) -> list[tuple[float, float]]:
    """(probability, push) over the grid; empty for a method without a push on a token."""
    plugin = entry.load()
    posed = POSED.get(entry.name, Posed())
    if not issubclass(plugin, Objective) or entry.name in NO_PUSH:
        return []
    try:
        made = plugin(**posed.options)
        found = [(p, push(made, p)) for p in GRID] if posed.side in made.reads else []
    except (RuntimeError, KeyError, AttributeError, ExpungeError):  # it reads what it makes before the first step
        return []
    return found if any(value for _, value in found) else []


def picture(entry: Entry) -> str:
    """The push against the token's probability, as SVG in the page, beside that of plain ascent; or why there is none.

    Empty for what is no objective.
    """
    found, posed = curve_of(entry), POSED.get(entry.name, Posed())
    if not found:
        return NO_PUSH.get(entry.name, NOT_KNOWN) if entry.kind == "objective" else ""
    lines = {entry.name: found} | ({} if entry.name == "ga" or posed.side != "forget" else {
        "ga": [(p, 1 - p) for p in GRID]})
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
            f"{posed.token}; {CONFIG['vocab_size']} tokens, all others equally likely. Default options, no companions; "
            f"above 0 the token is pushed down, below 0 up. The original gives it {REFERENCE}. {said}"
            f"{' Dashed: `ga`.' if len(names) > 1 else ''}")
