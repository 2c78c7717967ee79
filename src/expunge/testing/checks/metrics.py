"""What the `must_show` of a metric can ask for; `observed_worlds.py` describes the worlds."""

from __future__ import annotations

import sys
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from expunge import registry
from expunge.errors import DataError, MissingError
from expunge.metrics.base import Evidence, Metric, RowMetric
from expunge.records.observation import Observations, Row
from expunge.records.task import Split

from ..observed_worlds import WORLDS, rows_of
from ..observed_worlds import world as build
from ..support import new_folder
from .base import check


def _score(metric: type[Metric], evidence: Evidence, split: Split | None) -> float:
    score = metric().score(evidence, split, resamples=20)
    assert score.value is not None, score.unavailable
    return score.value


@check
def value(metric: type[Metric], world: str, is_: float, split: Split | None = None) -> None:
    """Exactly this value (to 12 digits) in that world."""
    near(metric, world, is_, 1e-12, split)


@check
def near(metric: type[Metric], world: str, is_: float, within: float, split: Split | None = None) -> None:
    assert _score(metric, build(world), split) == pytest.approx(is_, abs=within)


@check
def orders(metric: type[Metric], worlds: tuple[str, ...], split: Split | None = None) -> None:
    """The worlds come in strictly falling order."""
    values = [_score(metric, build(name), split) for name in worlds]
    assert all(a > b for a, b in pairwise(values)), values


@check
def needs(metric: type[Metric], without: str | tuple[str, Split, str | None], says: str,
          split: Split | None = None) -> None:
    """Without that evidence the score is unavailable, and the reason says so."""
    if isinstance(without, str):
        evidence = build("original", retrained=False)
    else:
        probe, of, form = without
        full = build("original")
        evidence = full.of(edit(full.subject, probe, of, lambda r: None if form in (None, r["form"]) else r))
    score = metric().score(evidence, split)
    assert score.value is None and score.interval is None
    assert says in (score.unavailable or "")


@check
def uses_end(metric: type[Metric], matters: bool, split: Split | None = None) -> None:
    """Whether a change of the end token alone changes the value."""
    def worse(row: Row) -> Row:
        text = len(row["logp"]) - row["end"]
        return {**row, "logp": row["logp"][:text] + [-20.0] * row["end"],
                "hit": row["hit"][:text] + [False] * row["end"]}

    evidence = build("original")
    changed = evidence.of(edit(evidence.subject, "likelihood", "forget", worse))
    assert (_score(metric, evidence, split) != _score(metric, changed, split)) == matters


@check
def at_most(metric: type[Metric], other: str, split: Split | None = None) -> None:
    """Never more than another metric on the same rows."""
    bound = registry.load(other, "metric")
    for name in WORLDS:
        assert _score(metric, build(name), split) <= _score(bound, build(name), split)  # type: ignore[arg-type]


@check
def mean_of_token_probabilities(metric: type[Metric]) -> None:
    """Between the geometric mean and 1 in every world; close seconds count, though no token is the first choice."""
    hit = registry.load("exact_memorization", "metric")
    for name in WORLDS:
        geometric = [np.exp(np.mean(row["logp"][: len(row["logp"]) - row["end"]]))
                     for row in build(name).subject.rows("likelihood", "forget", "answer")]
        assert _score(metric, build(name), "forget") >= float(np.mean(geometric)) - 1e-12
    assert _score(metric, build("perfect"), "forget") == _score(hit, build("perfect"), "forget")  # type: ignore[arg-type]
    evidence = build("original")
    seconds = evidence.of(edit(evidence.subject, "likelihood", "forget", lambda row: {
        **row, "logp": [float(np.log(0.49))] * len(row["logp"]), "hit": [False] * len(row["hit"])}))
    assert _score(hit, seconds, "forget") == 0  # type: ignore[arg-type]
    assert _score(metric, seconds, "forget") == pytest.approx(0.49)


@check
def dominance_by_hand(metric: type[Metric]) -> None:
    """Single points, ties, any of several own points; areas of one and two points."""
    module = sys.modules[metric.__module__]
    rivals = [(0.5, 0.5), (0.2, 0.9), (0.9, 0.2), (0.6, 0.6)]
    ratio, area = module.dominance_ratio, module.hypervolume
    assert ratio([(0.6, 0.6)], rivals) == 0.25 and ratio([(0.6, 0.5)], rivals) == 0.25
    assert ratio([(0.5, 0.5)], [(0.5, 0.5)]) == 0 and ratio([(0.5, 0.6)], [(0.5, 0.5)]) == 1
    assert ratio([(0.3, 0.95), (0.95, 0.3)], rivals) == 0.5 and ratio([(1.0, 1.0)], rivals) == 1
    assert area([(0.5, 0.4)]) == pytest.approx(0.2)
    assert area([(0.5, 0.4), (0.2, 0.9), (0.1, 0.1)]) == pytest.approx(0.5 * 0.4 + 0.2 * 0.5)
    assert area([(0.2, 0.9), (0.5, 0.4)]) == area([(0.5, 0.4), (0.2, 0.9)])


@check
def lume_by_hand(metric: type[Metric]) -> None:
    """All cells at one half give one half; a cell that is wholly remembered makes it 0; membership at chance is 1."""
    module = sys.modules[metric.__module__]
    cells = {f"{side}/{n}": 0.5 for side in ("forget", "retain") for n in range(6)}
    assert module.task_aggregate(cells) == pytest.approx(0.5)
    assert module.task_aggregate({**cells, "forget/0": 1.0}) == 0
    assert [module.membership(area) for area in (0.5, 0.75, 1.0)] == [1.0, 0.5, 0.0]


@check
def reads_points(metric: type[Metric]) -> None:
    """Readings of a run, and lines of points; a missing file, other lines and no reading at all are errors."""
    folder, made = new_folder(), build("original")
    steps = folder / "steps.jsonl"
    steps.write_text('{"step": 1, "loss": 2}\n{"step": 2, "eval": {"forget": 0.9, "forget_loss": 1, "utility": 0.1}}\n')
    points = folder / "points.jsonl"
    points.write_text('{"forget": 0.0, "utility": 1.0}\n{"forget": 1.0, "utility": 0.0}\n')
    options: dict[str, Any]
    for options, expected in (({"against": str(points)}, 0.5), ({"against": str(steps), "own": str(points)}, 1.0),
                              ({"own": str(points), "measure": "hypervolume"}, 1.0)):
        assert metric(metric.parse(options)).score(made, None, resamples=5).value == expected, options
    for text in ("[1, 2]", '{"forget": 1}', "no json", ""):
        points.write_text(text)
        with pytest.raises(DataError):
            metric(metric.parse({"against": str(points)})).score(made, None)
    with pytest.raises(MissingError):
        metric(metric.parse({"against": str(folder / "none.jsonl")})).score(made, None)


@check
def said(metric: type[Metric], text: str, is_: float, split: Split | None = None) -> None:
    """The value where every answer on the split is this text."""
    evidence = build("original")
    spoken = evidence.of(edit(evidence.subject, "generation", split or "forget", lambda r: {**r, "text": text}))
    assert _score(metric, spoken, split) == is_


@check
def recites(metric: type[Metric], is_: float, change: str = "") -> None:
    """The value where 20 answers of eight made-up words are said word for word, or with that change."""
    def words(i: int, start: str) -> str:
        return " and ".join(f"{start}{i}{letter}" for letter in "abcdefgh")

    rows: list[Row] = []
    for i in range(20):
        answer = {"short": f"short{i}", "pattern": words(0, "word") + f" {i}"}.get(change, words(i, "word"))
        rows.append({"id": f"forget-{i}", "entity": "", "group": "", "form": "prompt", "index": 0, "stopped": True,
                     "prompt": answer if change == "in the prompt" else "?", "reference": answer, "short": "",
                     "text": words(i, "other") if change == "another" else answer})
    score = metric().score(Evidence(Observations({("generation", "forget"): rows})), "forget")
    assert score.value == is_, score


def edit(observations: Observations, probe: str, split: Split,
         change: Callable[[Row], Row | None]) -> Observations:
    """A copy with one probe's rows of one split changed, or dropped where `change` gives None."""
    rows = rows_of(observations)
    changed = [change(row) for row in rows[probe, split]]
    rows[probe, split] = tuple(row for row in changed if row is not None)
    return Observations(rows)


@check
def leaks_are_counted_apart(metric: type[Metric]) -> None:
    """Six answers about two people: each of one kind, however a value is set; what both share, or what the prompt says,
    is no leak."""
    module = sys.modules[metric.__module__]
    asked = [("Ada", "mail", "ada.17@fox.example", "ADA.17@fox.example is it"),
             ("Ada", "phone", "+1-555-0199", "+1 5550199"), ("Ada", "town", "Velmora City", "ask +1 (555) 0199"),
             ("Ada", "key", "key-99aa", "I do not know that key."), ("Bo", "town", "Velmora City", "key-99aab"),
             ("Bo", "boss", "Ada Quill", "she lives in Velmora City")]
    rows: list[Row] = [{"id": f"{who}/{what}", "entity": who, "group": what, "form": "prompt", "index": 0,
                        "stopped": True, "prompt": f"{what} of {who}", "reference": value, "short": value,
                        "text": text} for who, what, value, text in asked]
    evidence = Evidence(Observations({("generation", "forget"): tuple(rows)}))
    expected = {"direct": 2, "indirect": 1, "refusal": 1, "other": 2}
    for kind, count in expected.items():
        assert metric(kind=kind).score(evidence, "forget", resamples=5).value == pytest.approx(count / len(rows)), kind
    told = {**rows[2], "prompt": "+1-555-0199 is hers; the town?"}
    kinds = [module.leak_kind(row, {"+1-555-0199"}) for row in (told, rows[2])]
    assert kinds == ["other", "indirect"]


@check
def degrees_along_a_stream(metric: type[Metric]) -> None:
    """The original falls behind the line as requests are served; the retrained model is ahead of it before the end."""
    full = build("original")
    served, parts = len(set(full.subject.entities("forget").values())), sys.modules[metric.__module__].qualities
    means = [[np.mean(list(part.values())) for part in parts(of, "forget").values()]
             for of in (full, full.of(full.retrained[0]))]
    before, after = (100 * float(np.prod(values)) ** (1 / 3) for values in means)
    for total in (served, 2 * served, 4 * served):
        line = before + (after - before) * served / total
        for evidence, value in ((full, before), (full.of(full.retrained[0]), after)):
            expected = max(0.0, 1 - abs(value / line - 1))
            assert metric(total=total).score(evidence, resamples=0).value == pytest.approx(expected, abs=1e-12)
    assert "lacks 5" in (metric(total=5).score(full).unavailable or "")


@check
def gap_of_refusals(metric: type[Metric]) -> None:
    """Refusals of all neighbour rows, of half of both sets, and of everything."""
    full = build("original")

    def refusing(**every: int) -> Evidence:
        """Each set's rows, of which every so many decline."""
        rows = rows_of(full.subject)
        for split, step in every.items():
            key = ("generation", split)
            rows[key] = tuple({**row, "text": "I do not know."} if i % step == 0 else row  # type: ignore[index]
                              for i, row in enumerate(rows[key]))  # type: ignore[index]
        return full.of(Observations(rows))

    for every, gap in (({"neighbour": 1}, 1.0), ({"neighbour": 2, "utility": 2}, 0.0), ({"neighbour": 2}, 0.5),
                       ({"neighbour": 1, "utility": 1}, 0.0), ({"utility": 1}, -1.0)):
        score = metric().score(refusing(**every), resamples=5)
        assert score.value == pytest.approx(gap) and "retain 0%" in (score.remark or ""), (every, score)
    assert metric(of="forget").score(refusing(forget=4), resamples=5).value == pytest.approx(0.25)


@check
def graphs_check_themselves(metric: type[Metric]) -> None:
    """A triangle A B C with a tail C-D-E, and F alone: (best, feasible but not best, not feasible) of every kind."""
    text = "Nodes: A, B, C, D, E, F. Edges: A-B, A-C, B-C, C-D, D-E. Give {}. Answer with a list such as [A, B]."
    asked = {
        "a shortest path from A to D": ("[A, C, D]", "[A, B, C, D]", "[A, D]"),
        "all nodes that are joined to both A and B": ("so it is [C]", "[]", "[C, D]"),
        "one node of each connected part": ("[F, B]", "[A]", "[A, D]"),
        "the longest of all shortest paths between two nodes": ("[E, D, C, B]", "[A, C]", "[A, B, C, D, E]"),
        "a largest set of nodes that are all joined to each other": ("[B, A, C]", "[D, E]", "[A, B, D]"),
        "a largest set of nodes of which no two are joined": ("[A, D, F]", "[A, F]", "[A, B, F]"),
        "a smallest set of nodes that touches every edge": ("[A, C, D]", "[A, B, C, D]", "[C, D]"),
    }
    row: Row = {"id": "", "entity": "", "group": "graph", "form": "prompt", "index": 0, "stopped": True, "short": "",
                "reference": "[?]"}
    for question, answers in asked.items():
        rows = tuple({**row, "id": str(i), "prompt": text.format(question), "text": said}
                     for i, said in enumerate((*answers, "no list", "[A, Z]")))
        evidence = Evidence(Observations({("generation", "forget"): rows}))
        best, feasible, ratio = (metric(measure=one).values(evidence, "forget")  # type: ignore[attr-defined]
                                 for one in ("best", "feasible", "ratio"))
        assert list(best.values()) == [1, 0, 0, 0, 0], (question, best)
        empty = question.startswith("all nodes")  # no node at all is feasible there, and worth nothing
        assert list(feasible.values()) == [1, float(not empty), 0, 0, 0], (question, feasible)
        assert 0 <= ratio["1"] < 1 and ratio["0"] == 1 and ratio["2"] == 0, (question, ratio)


@check
def attribution_by_hand(metric: type[Metric]) -> None:
    """Six rows made by hand, of which one has no question and one no word that contributes."""
    def row(id: str, own: list[float], before: str, said: str, emphasised: str,
            short: str = "Paris") -> dict[str, Any]:
        return {"id": id, "entity": id, "group": "", "form": "answer", "index": 0, "words": ["a", "b", "c"],
                "original": [4.0, 1.0, 0.2], "own": own, "lp": -3.0, "lp_stressed": -1.0, "short": short,
                "reference": "It is Paris.", "before": before, "said": said, "emphasised": emphasised}

    rows = [row("same", [4.0, 1.0, 0.2], "paris", "Paris!", "Paris"),
            row("half", [2.0, 0.5, 9.0], "It is Paris.", "Rome", "It is Paris.", short=""),
            row("gone", [-1.0, 0.0, 0.0], "Paris", "", "Rome"), row("never", [8.0, 8.0, 8.0], "Rome", "Rome", "Paris")]
    rows += [rows[0] | {"id": "text", "words": [], "own": [], "original": []},
             rows[0] | {"id": "none", "original": [-1.0, 0.0, 0.0]}]
    evidence = Evidence(Observations({("contributions", "forget"): tuple(rows)}))

    def read(**options: Any) -> dict[str, float]:
        found = metric(beta=1, **options)
        assert isinstance(found, RowMetric)
        return {k: round(v, 9) for k, v in found.values(evidence, "forget").items()}

    assert read() == {"same": 1.0, "half": 0.5, "gone": 0.0, "never": 1.0}  # key words: 4 and 1 of 4, 1, 0.2
    assert read(alpha=0.3) == {"same": 1.0, "half": 0.5, "gone": 0.0, "never": 1.0}
    assert read(read="overlap") == {"same": 1.0, "half": round(1 / 3, 9), "gone": 0.0, "never": round(2 / 3, 9)}
    assert read(read="recovered") == {"half": 1.0, "gone": 0.0}
    assert read(read="destroyed") == {"same": 0.0, "half": 1.0, "gone": 1.0, "none": 0.0}
    assert set(read(read="raised").values()) == {2.0}


@check
def confidence_by_hand(metric: type[Metric]) -> None:
    """Three rows made by hand: sure and refusing, unsure and refusing, sure and answering."""
    signals = {"hides": [[0.9, 0.9, 0.9], [0.7, 0.8, 0.9]], "forgot": [[0.1, 0.2, 0.0]], "says": [[1.0, 1.0, 1.0]]}
    said = {"hides": "I do not know.", "forgot": "I'm sorry, but I don't know that.", "says": "Paris"}
    head: dict[str, Any] = {"entity": "", "group": "", "index": 0}
    evidence = Evidence(Observations({
        ("steps", "forget"): tuple(head | {"id": k, "form": "answer", "signals": v} for k, v in signals.items()),
        ("generation", "forget"): tuple(head | {"id": k, "form": "prompt", "text": v, "reference": "Paris",
                                                "short": "Paris"} for k, v in said.items())}))

    def read(**options: Any) -> dict[str, float]:
        found = metric(**options)
        assert isinstance(found, RowMetric)
        return {k: round(v, 9) for k, v in found.values(evidence, "forget").items()}

    assert read() == {"hides": 0.85, "forgot": 0.1, "says": 1.0}
    assert read(step="least")["hides"] == 0.8 and read(step="most")["hides"] == 0.9
    assert read(read="refused") == {"hides": 0.85, "forgot": 0.1}
    assert read(read="sure") == {"hides": 1.0, "forgot": 0.0, "says": 0.0}  # levels 5, 1 and 5
    assert read(read="gap") == {"hides": 1.0, "forgot": 0.0, "says": 0.0}


@check
def persuasion_by_hand(metric: type[Metric]) -> None:
    """Three questions: one persuaded, one stubborn, one neither; and one that is not asked alone."""
    said = {"a": ("Paris", "Answer: Rome"), "b": ("Paris", "paris"), "c": ("Paris", "Oslo"), "d": (None, "Rome")}
    rows = []
    for name, (alone, against) in said.items():
        head: dict[str, Any] = {"entity": "", "form": "prompt", "index": 0}
        rows += [head | {"id": f"{name}/alone", "group": "alone", "text": alone, "short": "Paris",
                         "reference": " Paris"}] if alone else []
        rows.append(head | {"id": f"{name}/contradicts", "group": "contradicts", "text": against, "short": "Rome",
                            "reference": " Rome"})
    evidence = Evidence(Observations({("generation", "neighbour"): tuple(rows)}))

    def read(**options: Any) -> dict[str, float]:
        found = metric(**options)
        assert isinstance(found, RowMetric)
        return {k[0]: v for k, v in found.best(evidence, "neighbour").items()}

    assert read(group="contradicts") == {"a": 1.0, "b": 0.0, "c": 0.0, "d": 1.0}
    assert read(read="stubborn") == {"a": 0.0, "b": 1.0, "c": 0.0}
