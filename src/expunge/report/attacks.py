"""What attacks brought out, as rows, curves and answers for the page. No drawing here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from expunge.errors import ExpungeError
from expunge.records.observation import Observations, Row
from expunge.records.score import ACCESS, Access, Audit, Score
from expunge.records.task import Split
from expunge.report.evidence import Answer, cell, highlight, rows
from expunge.report.gather import RunView, finite
from expunge.terms import parse_sum

SHOWN = 12
"""Comparisons of one access that stand open; the others are folded."""
STRONGEST = 2
"""Attacks whose answers are shown."""
BARE = {("relearn", "steps"): 48.0, ("soft_prompt", "steps"): 100.0}
"""Options that a label leaves out at their default; nothing else says what it is."""
LAYER_PROBES = {"lens": "lens", "depth": "states patched into the original", "gradient": "gradient of the loss",
                "weights": "weights"}
"""Probes with something to say per layer -> how a chart calls them."""
LAYER_SCORES = {"linear_probe": "linear probe on hidden states: accuracy, forget against holdout rows"}
FIELDS = {"lens": "log-probability of the answer", "share": "answer tokens that come first", "distance":
          "distance from the original", "drops": "what the original loses of the answer's log-probability",
          "blocks": "its norm, mean over the block's matrices"}
SKIPPED = {"layer", "layers", "index", "attempt", "id", "end", "n", "correct", "weights", "norm", "change"}
SPLITS: tuple[Split, ...] = ("forget", "retain")


@dataclass(frozen=True)
class AttackRow:
    """One score under one attack."""

    score: Score
    control: float | None
    """The same attack on the retrained model, or on rows that were never trained on."""
    leak: bool


@dataclass(frozen=True)
class Level:
    """Everything tried at one access, strongest first."""

    access: Access
    shown: tuple[AttackRow, ...]
    folded: tuple[AttackRow, ...]


Spot = tuple[float, float, tuple[float, float] | None]
"""x, y, interval of y."""


@dataclass(frozen=True)
class Lines:
    """One chart: named lines, and levels to compare them with."""

    title: str
    x_title: str
    lines: Mapping[str, Sequence[Spot]]
    levels: Mapping[str, float]


def levels(audit: Audit) -> list[Level]:
    """Scores of the forget set under attack, by access; all that succeeded come first."""
    found = []
    for access in ACCESS:
        scores = [s for s in _attacked(audit.scores) if s.shows_knowledge and s.access == access]
        made = [AttackRow(s, (s.control or ("", None))[1], s.succeeded)
                for s in sorted(scores, key=lambda s: (s.succeeded, s.strength), reverse=True)]
        if made:
            found.append(Level(access, tuple(made[:SHOWN]), tuple(made[SHOWN:])))
    return found


def undecided(audit: Audit | None) -> list[str]:
    """Said where no comparison was decided on, as in audits of earlier versions, which this page cannot make good."""
    compared = [s for s in audit.scores if s.attack and s.excess is not None] if audit else []
    if not compared or any(s.doubt is not None for s in compared):
        return []
    return ["Whether an attack succeeded was not decided: too few rows, or an audit of an earlier version; "
            "`expunge audit --rescore DIR` prints what this version decides."]


def others(audit: Audit) -> list[AttackRow]:
    """Scores under attack that say nothing of the forget set: what the attacked model still can do."""
    return [AttackRow(s, (s.control or ("", None))[1], False)
            for s in _attacked(audit.scores) if not s.shows_knowledge]


def unavailable(audit: Audit) -> list[tuple[str, str]]:
    """(attack, or attack and score, why there is no number)."""
    run = {s.attack for s in _attacked(audit.scores)}
    found = [(s.attack if s.attack not in run else f"{s.attack}, {s.name}", s.unavailable or "no reason was recorded")
             for s in audit.scores if s.attack is not None and s.value is None]
    return list(dict.fromkeys((str(what), why) for what, why in found))


def excesses(audit: Audit, most: int = 40) -> dict[str, list[AttackRow]]:
    """Metric -> rows with an interval, the largest excess first."""
    found: dict[str, list[AttackRow]] = {}
    everything = [row for level in levels(audit) for row in (*level.shown, *level.folded)]
    for name in dict.fromkeys(s.name for s in audit.scores):  # in the order in which they were asked
        rows_of = [r for r in everything if r.score.name == name and r.score.excess_interval is not None]
        if rows_of:
            found[name] = sorted(rows_of, key=lambda r: r.score.excess or 0.0, reverse=True)
    return {name: made[:most] for name, made in found.items()}


def _attacked(scores: Iterable[Score]) -> list[Score]:
    return [s for s in scores if s.attack is not None and s.value is not None]


def curves(audit: Audit) -> list[Lines]:
    """Value against strength, where the labels of one attack differ in one number; steps begin with what was before."""
    found = []
    for record in audit.attacks:
        option, places = strengths(record.labels)
        if option is None:
            continue
        scores = _attacked(s for label in places for s in audit.scores if s.attack == label)
        for name in dict.fromkeys(s.name for s in scores):
            points = sorted((places[s.attack or ""], s) for s in scores if s.name == name)
            if len(points) < 2:
                continue
            lines: dict[str, list[Spot]] = {
                "unlearned": [(x, s.value or 0.0, s.interval) for x, s in points],
                "retrained": [(x, c, None) for x, s in points if (c := s.controls.get("retrained")) is not None]}
            before = next((s.before for _, s in points if s.before is not None), None)
            if option == "steps" and before is not None and points[0][0] > 0:
                lines["unlearned"].insert(0, (0.0, before, None))
            original = next((o for _, s in points if (o := s.controls.get("original")) is not None), None)
            found.append(Lines(f"{record.term}: {name}", option, {k: v for k, v in lines.items() if v},
                               {"original": original} if original is not None else {}))
    return found


def strengths(labels: Sequence[str]) -> tuple[str | None, dict[str, float]]:
    """(the one option in which labels differ, label -> its number); (None, {}) when that cannot be read."""
    try:
        parsed = {label: [call for stage in parse_sum(label) for call in stage] for label in labels}
    except ExpungeError:
        return None, {}
    options: dict[str, dict[tuple[int, str, str], Any]] = {}
    for label, calls in parsed.items():
        options[label] = {(i, call.name, k): v for i, call in enumerate(calls) for k, v in call.options}
        for i, call in enumerate(calls):
            for (name, option), value in BARE.items():
                if call.name == name:
                    options[label].setdefault((i, name, option), value)
    keys = {key for found in options.values() for key in found}
    differ = [k for k in keys if len({repr(o.get(k)) for o in options.values()}) > 1]
    if len(differ) != 1:
        return None, {}
    values = {label: found.get(differ[0]) for label, found in options.items()}
    if len(finite(values.values())) != len(values):
        return None, {}
    return differ[0][2], {label: float(v) for label, v in values.items() if v is not None}


def recovered(view: RunView, limit: int) -> list[Answer]:
    """Answers before and under the strongest attacks, beside the control's: those in which most came back first."""
    labels = _strongest(view)
    under = {(a.role, a.label): a.read() for a in view.attacked
             if a.label in labels and a.split == "forget" and a.role in ("subject", "retrained")}
    columns = [("before", "unlearned", _spoken(view.subject))]
    for label in labels:
        for role, who in (("subject", "unlearned"), ("retrained", "retrained")):
            if (role, label) in under:
                name = label if role == "subject" else f"retrained, {label}"
                columns.append((name, who, _spoken(under[role, label])))
    plain, attacked = columns[0][2], [(who, table) for _, who, table in columns[1:]]
    ids = [identity for identity in plain if any(identity in table for _, table in attacked)]

    def gain(identity: str) -> float:
        asked = plain[identity]
        there = max(1, _telling({"text": asked["reference"]}, asked))
        best = {who: max((_telling(t[identity], asked) for w, t in attacked if w == who and identity in t), default=0)
                for who in ("unlearned", "retrained")}
        return (best["unlearned"] - max(best["retrained"], _telling(asked, asked))) / there

    found = []
    for identity in sorted(ids, key=gain, reverse=True)[:limit]:
        prompt, reference = str(plain[identity]["prompt"]), str(plain[identity]["reference"])
        cells = tuple(cell(label, role, table.get(identity), prompt, reference) for label, role, table in columns)
        found.append(Answer(prompt, reference, tuple(c for c in cells if c.note != "not asked"),
                            identity))
    return found


def _strongest(view: RunView) -> list[str]:
    """Labels of the attacks to show, one per attack: those that succeeded, else whichever came closest."""
    if view.audit is None:
        return []
    scores = view.audit.scores
    kept = {a.label for a in view.attacked if a.role == "subject" and a.split == "forget" and a.asked("generation")}
    ranked = sorted((s for s in _attacked(scores) if s.shows_knowledge and s.excess is not None),
                    key=lambda s: (s.succeeded, s.strength), reverse=True)
    won = [s for s in ranked if s.succeeded]
    best: dict[str, str] = {}
    for label in [s.attack for s in (won or ranked) if s.attack in kept]:
        term = next((a.term for a in view.audit.attacks if label in a.labels), label)
        best.setdefault(str(term), str(label))
    return list(best.values())[:STRONGEST]


def _spoken(observations: Observations) -> dict[str, Row]:
    """The answer to each plain prompt; of several attempts the one that tells most."""
    found: dict[str, Row] = {}
    for row in rows(observations, "forget", "reference", "prompt"):
        if row["id"] not in found or _telling(row, row) > _telling(found[row["id"]], row):
            found[row["id"]] = row
    return found


def _telling(row: Row, asked: Row) -> int:
    """How many different words of the reference an answer gives away."""
    pieces = highlight(str(row["text"]), str(asked["reference"]), str(asked["prompt"]))
    return len({text.casefold() for text, known in pieces if known})


def profiles(view: RunView) -> list[Lines]:
    """Numbers per layer of every model, from whichever probes look inside; unknown fields are drawn as they are."""
    models = {"original": view.original, "unlearned": view.subject}
    if view.retrained:
        models["retrained"] = view.retrained[0]
    found = []
    for probe, called in LAYER_PROBES.items():
        for split in SPLITS:
            key = "index" if probe == "weights" else "layer"
            layers = {who: per_layer(_blocks(seen.rows(probe, split), probe), key) for who, seen in models.items()}
            for field in dict.fromkeys(f for by_field in layers.values() for f in by_field):
                lines = {who: [(x, y, None) for x, y in by_field[field]]
                         for who, by_field in layers.items() if len(by_field.get(field, ())) > 1}
                if lines:
                    rows_of = "" if probe == "weights" else f", {split} rows"
                    found.append(Lines(f"{called}{rows_of}: {FIELDS.get(field, field)}", "layer", lines, {}))
    for score in () if view.audit is None else view.audit.scores:
        lines = {who: [(x, y, None) for x, y in score.by_layer[who]] for who in models if who in score.by_layer}
        if any(len(points) > 1 for points in lines.values()):
            found.append(Lines(LAYER_SCORES.get(score.name, score.name), "layer", lines, {}))
    return found


def _blocks(found: Sequence[Row], probe: str) -> Sequence[Row]:
    """Rows of the weights probe are parts of a model: its numbered blocks, then embeddings and the rest."""
    return [r for r in found if str(r["id"])[-1:].isdigit()] if probe == "weights" else found


def per_layer(found: Sequence[Row], key: str = "layer") -> dict[str, list[tuple[float, float]]]:
    """Field -> (layer, mean over rows). A row names its layer, or holds one list per field with an entry per layer."""
    sums: dict[str, dict[float, list[float]]] = {}
    for row in found:
        where, listed = finite([row.get(key)]), row.get("layers")
        for field, value in row.items():
            if field in SKIPPED:
                continue
            if where and finite([value]):
                sums.setdefault(field, {}).setdefault(where[0], []).append(float(value))
            elif isinstance(value, list) and not where and len(finite(value)) == len(value) > 1:
                at = listed if isinstance(listed, list) and len(finite(listed)) == len(value) else range(len(value))
                for x, y in zip(at, value, strict=True):
                    sums.setdefault(field, {}).setdefault(float(x), []).append(float(y))
    return {field: sorted((x, sum(ys) / len(ys)) for x, ys in by.items()) for field, by in sums.items()}
