"""Numbers and texts for the page, taken from observation rows and step lines. No drawing here."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from expunge.records.observation import Observations, Row
from expunge.records.task import Split
from expunge.report.gather import finite
from expunge.report.text import COMMON_WORDS

MAX_POINTS = 300
"""Longer curves are averaged in bins, so that a page of a long run stays small."""
MAX_CHARACTERS = 600
LOWEST = -1e5
"""Nats. A token ruled out completely counts as this, as it does in the metrics."""


@dataclass(frozen=True)
class Panel:
    """One small training chart: named series of (step, value)."""

    title: str
    series: Mapping[str, Sequence[tuple[float, float]]]
    bin: int = 1
    """How many steps each drawn point averages."""
    dots: bool = False


@dataclass(frozen=True)
class Cell:
    """One model's answer, cut into (text, is a word of the reference) pieces."""

    label: str
    role: str
    pieces: tuple[tuple[str, bool], ...]
    note: str = ""


@dataclass(frozen=True)
class Answer:
    prompt: str
    reference: str
    cells: tuple[Cell, ...]
    id: str = ""


def rows(observations: Observations, split: Split, key: str, form: str) -> tuple[Row, ...]:
    """Rows of the first probe on a split that carry `key`, of one form."""
    probed = observations.keys()
    for probe, where in probed:
        if where == split:
            found = tuple(r for r in observations.rows(probe, split, form) if key in r)
            if found:
                return found
    return ()


def losses(observations: Observations, split: Split) -> list[float]:
    """Answer loss per example: mean negative log-likelihood, in nats per token."""
    return finite(-mean for mean in _means(rows(observations, split, "logp", "answer")).values())


def truth_ratios(observations: Observations, split: Split) -> list[float]:
    """Truth ratio per example, arithmetic variant (TOFU, Maini et al. 2024, equation 1).

    mean over wrong answers of exp(mean log p) / exp(mean log p of the paraphrased answer); several
    paraphrases are averaged as probabilities, and the plain answer stands in where there is none.
    Worked in logs, clipped to [1e-6, 1e6] for drawing.
    """
    wrong = _by_id(rows(observations, split, "logp", "wrong"))
    right = {**_by_id(rows(observations, split, "logp", "answer")),
             **_by_id(rows(observations, split, "logp", "paraphrase"))}
    logs = [_log_mean_exp(wrong[i]) - _log_mean_exp(right[i]) for i in wrong if i in right]
    bound = math.log(1e6)
    return [math.exp(max(-bound, min(bound, v))) for v in logs]


def _means(found: Sequence[Row]) -> dict[tuple[str, int], float]:
    """Mean log-probability per token of each (example, index); rows without tokens are left out."""
    means = {(r["id"], r["index"]): math.fsum(max(v, LOWEST) for v in r["logp"]) / len(r["logp"])
             for r in found if r["logp"]}
    return {key: mean for key, mean in means.items() if not math.isnan(mean)}


def _by_id(found: Sequence[Row]) -> dict[str, list[float]]:
    grouped: dict[str, list[float]] = {}
    for (identity, _), mean in _means(found).items():
        grouped.setdefault(identity, []).append(mean)
    return grouped


def _log_mean_exp(values: Sequence[float]) -> float:
    top = max(values)
    return top + math.log(math.fsum(math.exp(v - top) for v in values) / len(values))


def panels(steps: Sequence[Mapping[str, Any]]) -> list[Panel]:
    """Every curve the step lines hold: loss, each term, likelihoods, gradients, cosine, evaluations."""
    numbers = _numbers(steps)
    terms = list(dict.fromkeys(k for s in steps for k in _inner(s, "terms")))
    evals = list(dict.fromkeys(k for s in steps for k in _inner(s, "eval")))
    plain = {
        "loss": {"loss": [s.get("loss") for s in steps]},
        **{f"term: {t}": {t: [_inner(s, "terms").get(t) for s in steps]} for t in terms},
        "answer loss on the training batch (nats per token)": {
            "forget": [s.get("forget_nll") for s in steps], "retain": [s.get("retain_nll") for s in steps]},
        "gradient norm": {
            "all": [s.get("grad_norm") for s in steps], "forget": [s.get("grad_norm_forget") for s in steps],
            "retain": [s.get("grad_norm_retain") for s in steps]},
        "cosine of forget and retain gradients": {"cosine": [s.get("cosine") for s in steps]},
        "learning rate": {"lr": [s.get("lr") for s in steps]},
        "evaluation during training": {e: [_inner(s, "eval").get(e) for s in steps] for e in evals},
    }
    found = []
    for title, columns in plain.items():
        dots = title.startswith("evaluation")
        size = 1 if dots else max(1, math.ceil(len(steps) / MAX_POINTS))
        series = {name: _binned(numbers, values, size) for name, values in columns.items()}
        series = {name: points for name, points in series.items() if points}
        if series:
            found.append(Panel(title, series, size, dots))
    return found


def _inner(step: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = step.get(key)
    return value if isinstance(value, Mapping) else {}


def _numbers(steps: Sequence[Mapping[str, Any]]) -> list[float]:
    """Step numbers; the line count instead when they do not rise (several stages in one file)."""
    numbers = [s.get("step") for s in steps]
    known = finite(numbers)
    rising = len(known) == len(numbers) and all(a < b for a, b in pairwise(known))
    return known if rising else [float(i) for i in range(1, len(steps) + 1)]


def _binned(numbers: Sequence[float], values: Sequence[Any], size: int) -> list[tuple[float, float]]:
    points = []
    for start in range(0, len(numbers), size):
        inside = finite(values[start : start + size])
        if inside:
            here = numbers[start : start + size]
            points.append((sum(here) / len(here), sum(inside) / len(inside)))
    return points


def answers(
    columns: Sequence[tuple[str, str, Observations]], split: Split, limit: int
) -> list[Answer]:
    """The first `limit` prompts of a split with every model's greedy answer beside the reference.

    `columns` are (label, role, observations); a model that was not asked shows as such.
    """
    tables = [
        (label, role, {r["id"]: r for r in rows(obs, split, "reference", "prompt")})
        for label, role, obs in columns
    ]
    asked = {identity: row for _, _, table in reversed(tables) for identity, row in table.items()}
    # The order of the first model that was asked, since dictionaries keep it.
    order = next((list(table) for _, _, table in tables if table), [])
    found = []
    for identity in order[:limit]:
        prompt, reference = str(asked[identity]["prompt"]), str(asked[identity]["reference"])
        cells = tuple(cell(label, role, table.get(identity), prompt, reference)
                      for label, role, table in tables)
        found.append(Answer(prompt, reference, cells, identity))
    return found


def cell(label: str, role: str, row: Row | None, prompt: str, reference: str) -> Cell:
    """One answer with the telling words marked, or what there is to say in its place."""
    if row is None:
        return Cell(label, role, (), "not asked")
    text = str(row["text"]).strip()
    note = "" if row.get("stopped", True) else "stopped by the token budget"
    if not text:
        return Cell(label, role, (), "empty answer")
    if len(text) > MAX_CHARACTERS:
        text, note = text[:MAX_CHARACTERS] + " …", "shortened here"
    return Cell(label, role, tuple(highlight(text, reference, prompt)), note)


def highlight(text: str, reference: str, prompt: str) -> list[tuple[str, bool]]:
    """Cut `text` into pieces; True marks words of the reference that the prompt did not give away."""
    telling = _words(reference) - _words(prompt) - COMMON_WORDS
    pieces: list[tuple[str, bool]] = []
    for piece in re.split(r"(\w+)", text):
        if piece:
            pieces.append((piece, piece.casefold() in telling))
    return pieces


def _words(text: str) -> frozenset[str]:
    return frozenset(word.casefold() for word in re.findall(r"\w+", text))
