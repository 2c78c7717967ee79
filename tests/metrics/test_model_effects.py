"""Honest models differ as a whole, not only row by row: with two controls or more that alone accuses few."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import numpy as np
import pytest

from expunge.judgement.leaks import alarms, doubt
from expunge.metrics.attacked import with_tests

ROOT = Path(__file__).parents[2]
with pytest.MonkeyPatch.context() as patched:
    patched.syspath_prepend(str(ROOT / "experiments"))
    study = importlib.import_module("model_effects")
comparison = study.comparison


def test_the_study_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("expunge.metrics.by_entity.DRAWS", 200)
    found = study.cell(2, 0.18, 25, 1)
    assert found["accused"] <= 3 / 25 and found["accused_without_spread"] >= 5 / 25, found


def test_the_stored_study_is_what_the_documentation_says() -> None:
    """With two controls or more at most 5 % are accused, but for two standard errors; with one more are."""
    stored = json.loads((ROOT / "results" / "model_effects.json").read_text())
    assert "dirty" not in stored["environment"]["commit"] and stored["audits"] >= 400 and stored["seconds"] < 120
    found = {(row["controls"], row["effect"]): row for row in stored["results"]}
    assert set(found) == {(c, e) for c in (1, 2, 3) for e in (0.06, 0.1, 0.18)}
    assert all(row["accused"] <= 0.05 + 2 * row["accused_error"] for (c, _), row in found.items() if c > 1)
    assert max(row["accused_without_spread"] for (c, _), row in found.items() if c > 1) > 0.5
    page = " ".join((ROOT / "docs" / "auditing.md").read_text(encoding="utf-8").split())
    one, two = ([100 * found[c, e][name] for e in (0.06, 0.1, 0.18)] for c, name in ((1, "accused"), (2, "undecided")))
    assert "with one control {:.0f}, {:.0f} and {:.0f} % are accused".format(*one) in page and min(one[1:]) > 5
    assert "and {:.0f}, {:.0f} and {:.0f} % become".format(*two) in page


def test_the_spread_is_of_all_attacks_and_of_one_degree_for_each_further_model() -> None:
    draw = np.random.default_rng(0)
    gaps = [(0.0,), (0.03,), (-0.04,)]
    found = with_tests([comparison(draw, f"a{j}", 0.1, apart) for j, apart in enumerate(gaps)])
    assert [s.spread for s in found] == pytest.approx([6.3138 * (0.0025 / 3) ** 0.5] * 3, rel=1e-4)
    padded = [comparison(draw, "a", 0.1, (0.03,)), comparison(draw, "b", 0.1, (0.9,))]
    assert with_tests(padded, {"a"})[0].spread == pytest.approx(6.3138 * 0.03, rel=1e-4), "other attacks add nothing"
    assert with_tests(padded)[0].spread == pytest.approx(6.3138 * (0.8109 / 2) ** 0.5, rel=1e-4)
    (one,) = with_tests([comparison(draw, "a", 0.1, (0.03, -0.04))])
    assert one.spread == pytest.approx(2.92 * (0.0025 / 2) ** 0.5, rel=1e-3)
    (alone,) = with_tests([comparison(draw, "a", 0.1, ())])
    assert alone.spread is None and doubt(alone) == "lone control"


@pytest.mark.parametrize(("excess", "said"), [(0.15, "few controls"), (0.3, None)])
def test_what_the_models_differ_by_is_an_alarm(excess: float, said: str | None) -> None:
    draw = np.random.default_rng(1)
    found = with_tests([comparison(draw, f"a{j}", excess, (0.03,)) for j in range(3)])
    assert {doubt(s) for s in found} == {said}
    assert bool(alarms(found)) == (said is not None)
