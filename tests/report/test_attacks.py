"""Rows, curves, answers and the matrix of attacks, by hand."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path

import pytest

from expunge.attacks.relearn import Relearn
from expunge.records.score import Audit
from expunge.report import attack_charts, attack_matrix, attacks, charts
from expunge.report.gather import gather
from expunge.report.page import render

from .conftest import RELEARN

Make = Callable[..., Path]


@pytest.fixture
def audit(make_run: Make) -> Audit:
    return Audit.read(make_run(attacks=True) / "audit.json")


def test_bare_labels_stand_for_the_default() -> None:
    assert attacks.BARE["relearn", "steps"] == Relearn.Spec.model_fields["steps"].default


@pytest.mark.parametrize(("labels", "option", "places"), [
    (("relearn(steps=5)", "relearn"), "steps", {"relearn(steps=5)": 5, "relearn": 48}),
    (("relearn(on='unrelated', steps=5)", "relearn(on='unrelated')"), "steps",
     {"relearn(on='unrelated', steps=5)": 5, "relearn(on='unrelated')": 48}),
    (("relearn(steps=5) + prefix", "relearn + prefix"), "steps",
     {"relearn(steps=5) + prefix": 5, "relearn + prefix": 48}),
    (("noise(sigma=0.1)", "noise(sigma=0.2)"), "sigma", {"noise(sigma=0.1)": 0.1, "noise(sigma=0.2)": 0.2}),
    (("noise(sigma=0.1)", "noise"), None, {}),  # nothing says what the default is
    (("a(x=1, y=1)", "a(x=2, y=2)"), None, {}),
    (("a(x='u')", "a(x='v')"), None, {}),
    (("relearn",), None, {}),
    (("not (a label", "x"), None, {}),
])
def test_strengths_are_read_off_labels(labels: tuple[str, ...], option: str | None, places: dict[str, float]) -> None:
    assert attacks.strengths(labels) == (option, places)


def test_levels_put_successes_first_and_utility_aside(audit: Audit) -> None:
    found = attacks.levels(audit)
    assert [level.access for level in found] == ["text", "logits", "weights"]
    weights = found[2].shown
    assert [(r.score.attack, r.leak) for r in weights] == [("relearn", True), ("relearn", True),
                                                          ("relearn(steps=5)", False), ("relearn(steps=5)", False)]
    assert weights[0].score.name == "forget.rouge_l", "the same excess is a larger share of what there was"
    assert {r.score.name for r in attacks.others(audit)} == {"retain.probability"}
    assert attacks.unavailable(audit) == [("interpolate", "it needs the original model")]
    assert set(attacks.excesses(audit)) == {"forget.probability", "forget.rouge_l"}


def test_curves_begin_with_what_was_before(audit: Audit) -> None:
    curve = next(c for c in attacks.curves(audit) if c.title.endswith("forget.probability"))
    assert [(x, round(y, 3)) for x, y, _ in curve.lines["unlearned"]] == [(0, 0.16), (5, 0.18), (48, 0.43)]
    assert [x for x, _, _ in curve.lines["retrained"]] == [5, 48] and curve.levels == {"original": 0.95}
    assert "<svg" in charts.to_svg(attack_charts.lines(curve), "a")


def test_answers_in_which_most_came_back_are_first(make_run: Make) -> None:
    (view,) = gather([make_run(attacks=True)])
    assert {a.role for a in view.attacked} == {"subject", "retrained", "retrained2"}
    assert {a.label for a in view.attacked} == {"relearn"}
    found = attacks.recovered(view, 3)
    assert [[c.label for c in a.cells] for a in found] == [["before", "relearn", "retrained, relearn"]] * 3
    for answer in found:
        marked = [sum(known for _, known in c.pieces) for c in answer.cells]
        assert marked[1] > marked[0] and marked[1] > marked[2]


def test_layers_are_read_whichever_way_rows_hold_them() -> None:
    one_each = [{"id": "a", "layer": i, "gap": float(i), "name": "x"} for i in range(3)] * 2
    assert attacks.per_layer(one_each) == {"gap": [(0, 0), (1, 1), (2, 2)]}
    lists = [{"id": "a", "drops": [1.0, 3.0], "logp": []}, {"id": "b", "drops": [3.0, 5.0], "index": 1}]
    assert attacks.per_layer(lists) == {"drops": [(0, 2), (1, 4)]}
    named = [{"id": "a", "layers": [4, 8], "drops": [1.0, 3.0]}, {"id": "b", "drops": [float("nan"), 1.0]}]
    assert attacks.per_layer(named) == {"drops": [(4, 1), (8, 3)]}


def test_matrix_is_plain_data(audit: Audit) -> None:
    found = attack_matrix.matrix([("npo", audit), ("bare", audit.model_copy(update={"scores": audit.scores[:1]}))])
    assert json.loads(json.dumps(found))["methods"] == ["npo", "bare"]
    assert [a["label"] for a in found["attacks"]] == [None, "prefix(words=3)", *RELEARN]
    cells = {(c["method"], c["attack"]): c for c in found["cells"]}
    assert ("bare", "relearn") not in cells and cells["bare", None]["excess"] == pytest.approx(0.03)
    relearned = cells["npo", "relearn"]
    assert relearned["share"] == pytest.approx(0.3 / 0.82) and relearned["leaks"] == 1 and relearned["seeds"] == 1
    assert cells["npo", "prefix(words=3)"]["leaks"] == 0
    rouge = attack_matrix.matrix([("npo", audit)], "forget.rouge_l")
    (missing,) = [c for c in rouge["cells"] if c["attack"] == "interpolate"]
    assert missing["unavailable"] == "it needs the original model"
    assert attack_matrix.reason(missing, "m") == "not available: it needs the original model"
    assert attack_matrix.colour(missing) is None


def test_seeds_of_one_method_are_merged(make_run: Make) -> None:
    audits = [("npo", Audit.read(make_run(f"s{i}", attacks=True, shift=0.1 * i) / "audit.json")) for i in range(3)]
    (cell,) = [c for c in attack_matrix.matrix(audits)["cells"] if c["attack"] == "relearn"]
    assert (cell["excess"], cell["seeds"], cell["leaks"]) == (pytest.approx(0.4), 3, 3)
    assert cell["interval"] == (pytest.approx(0.3), pytest.approx(0.5))


@pytest.mark.parametrize(("methods", "repeats", "written"), [(12, 7, True), (40, 10, False)])
def test_the_figure_stands_alone_and_is_small(audit: Audit, methods: int, repeats: int, written: bool) -> None:
    scores = tuple(s.model_copy(update={"attack": f"{s.attack}-{k}"}) if s.attack else s
                   for k in range(repeats) for s in audit.scores if s.name == "forget.probability")
    one = attack_matrix.matrix([("m", audit.model_copy(update={"scores": scores}))])
    names = [f"method {i}" for i in range(methods)]
    many = one | {"methods": names, "cells": [c | {"method": n} for n in names for c in one["cells"]]}
    drawn = attack_matrix.svg(many)
    root = ET.fromstring(drawn)
    assert root.tag == "{http://www.w3.org/2000/svg}svg" and len(drawn.encode()) < 150_000
    assert "prefers-color-scheme:dark" in drawn and f"method {methods - 1}" in drawn and "href" not in drawn
    assert (">0.30<" in drawn) == written


def test_an_audit_of_an_earlier_version_says_how_to_decide_it(make_run: Callable[..., Path], tmp_path: Path) -> None:
    run = make_run("run", attacks=True)
    assert "--rescore" not in render([run], out=tmp_path / "new.html").read_text(encoding="utf-8")
    audit = Audit.read(run / "audit.json")
    bare = tuple(s.model_copy(update={"doubt": None}) for s in audit.scores)
    audit.model_copy(update={"scores": bare}).write(run / "audit.json")
    assert "expunge audit --rescore DIR" in render([run], out=tmp_path / "old.html").read_text(encoding="utf-8")
