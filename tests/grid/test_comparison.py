"""Means over seeds and what is beyond noise: arithmetic by hand, the level of the test, and what may be claimed."""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

import expunge
from expunge.errors import DataError, MissingError, UsageError
from expunge.records.comparison import Comparison
from expunge.records.examples import ExampleScore, write_examples
from expunge.records.grid import Grid
from expunge.records.run import RunRecord
from expunge.records.score import Audit, Score, SubjectRef
from expunge.records.sweep import unbeaten
from expunge.report import noise
from expunge.report.comparison_text import FORMATS, finding, left_out, notes, table
from expunge.report.noise import Measured, adjusted, clustered, reflected


def test_holm_by_hand() -> None:
    assert adjusted([0.01, 0.04, 0.03, 0.5]) == pytest.approx([0.04, 0.09, 0.09, 0.5])
    assert adjusted([0.9, 0.9]) == [1.0, 1.0] and adjusted([]) == []


def test_seeds_alone_are_a_paired_t_test() -> None:
    a, b = np.asarray([0.31, 0.35, 0.30, 0.37]), np.asarray([0.28, 0.30, 0.29, 0.31])
    found = noise.tested(a - b, np.empty((4, 0)), [])
    assert found is not None and found[0] == pytest.approx(stats.ttest_rel(a, b).pvalue)
    low, high = stats.ttest_rel(a, b).confidence_interval()
    assert found[1] == pytest.approx((high - low) / 2)


def test_rows_of_one_entity_count_together() -> None:
    values, groups = np.asarray([1.0, 1.0, 1.0, -1.0, -1.0, -1.0, 0.5, 0.5]), [*"aaa", *"bbb", *"cc"]
    by_hand = [3 - 3 * 0.125, -3 - 3 * 0.125, 1 - 2 * 0.125]
    assert clustered(values, groups) == pytest.approx(3 / 2 * sum(v**2 for v in by_hand) / 64)
    alone = clustered(values, [str(i) for i in range(8)])
    assert alone == pytest.approx(values.var(ddof=1) / 8) and clustered(values, groups) > alone


@pytest.mark.parametrize(("seeds", "entities", "scale"), [
    (2, 10, (1, 1, 0.3)), (3, 20, (0, 1, 0.5)), (3, 10, (1, 0, 0.2)), (5, 20, (0.3, 1, 1))])
def test_the_level_holds_whatever_the_noise_comes_from(seeds: int, entities: int, scale: Sequence[float]) -> None:
    """Two groups that do not differ: seed, entity and both together as sources of noise; 2 rows for each entity."""
    random, trials, found = np.random.default_rng(1), 600, 0
    groups = [str(r // 2) for r in range(2 * entities)]
    for _ in range(trials):
        gaps = (scale[0] * random.normal(size=(seeds, 1)) + scale[1] * np.repeat(random.normal(size=entities), 2)
                + scale[2] * random.normal(size=(seeds, 2 * entities)))
        result = noise.tested(gaps.mean(axis=1), gaps, groups)
        found += result is not None and result[0] < 0.05
    assert found / trials < 0.085, "5 %, and what 600 trials and few seeds allow"


def test_a_real_difference_is_found() -> None:
    random = np.random.default_rng(2)
    gaps = 0.3 + 0.02 * random.normal(size=(3, 1)) + 0.1 * random.normal(size=20)
    result = noise.tested(gaps.mean(axis=1), gaps, [str(r) for r in range(20)])
    assert result is not None and result[0] < 0.01


def test_what_never_varies_proves_nothing() -> None:
    assert noise.tested(np.asarray([0.1, 0.1]), np.empty((2, 0)), []) is None
    same = noise.tested(np.asarray([0.1, 0.1]), np.tile([0.0, 0.2, 0.1, 0.1], (2, 1)), ["a", "b", "c", "d"])
    assert same is not None and same[0] > 0.05, "seeds agree, so rows alone decide"


Make = Callable[..., Path]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Writes an audited run: scores by name, and values of rows whose mean is the score."""

    def written(recipe: str, seed: int | None, scores: dict[str, float | Sequence[float]], *, lr: float = 1e-4,
                retrained: dict[str, float] | None = None, task: str = "t") -> Path:
        folder = tmp_path / f"{recipe.split('(')[0].replace(' ', '')}-{lr:g}-{seed}-{task}"
        controls = {"retrained": retrained} if retrained else {}
        found, rows = [], list[ExampleScore]()
        for name, given in scores.items():
            values = list(given) if isinstance(given, Sequence) else []
            value = float(np.mean(values)) if values else float(given)  # type: ignore[arg-type]
            ideal: Any = 1.0 if name == "forget_quality" else "reference"
            found.append(Score(name=name, value=value, higher_is="knows", ideal=ideal, n=4, controls={
                role: of[name] for role, of in controls.items() if name in of}))
            rows += [{"score": name, "attack": "", "model": "subject", "split": "forget", "id": str(i),
                      "entity": str(i), "value": v} for i, v in enumerate(values)]
        reference = SubjectRef(path="m", fingerprint="m")
        audit = Audit(task=task, task_fingerprint=task, subject=reference, suite=tuple(scores), scores=tuple(found))
        audit.write(folder / "audit.json")
        write_examples(folder, rows)
        if seed is not None:
            record = RunRecord(
                kind="forget", recipe=recipe, recipe_full={"0": {recipe: {}, "adamw": {"lr": lr}}}, model="base",
                settings=expunge.RunSettings(), model_fingerprint="m", task=task, task_fingerprints={"forget": task},
                seed=seed, environment={}, status="finished", timing={"train_s": 2.0})
            record.write(folder / "record.json")
        return folder

    return written


def near(value: float, seed: int) -> list[float]:
    """20 rows around a value; seeds differ a little."""
    random = np.random.default_rng(int(1000 * value) + seed)
    return list(value + 0.01 * random.normal(size=20) + 0.002 * random.normal())


def test_the_best_is_marked_only_beyond_noise(make: Make) -> None:
    """Near the retrained model for what must go, high for what must stay."""
    control = {"forget.probability": 0.2}
    methods = ("ga", 0.05, 0.3), ("npo", 0.22, 0.5), ("rmu", 0.6, 0.5)
    folders = [make(recipe, seed, {"forget.probability": near(goes, seed), "model_utility": stays + 0.01 * seed},
                    retrained=control) for recipe, goes, stays in methods for seed in range(3)]
    found = expunge.compare([str(f) for f in folders])
    assert [g.title for g in found.groups] == ["ga", "npo", "rmu"] and found.groups[0].seeds == (0, 1, 2)
    goes, stays = found.scores
    assert (goes.key, goes.aim, goes.target) == ("forget.probability", "nearest", pytest.approx(0.2))
    assert goes.marked == "B" and goes.values["B"].deviation == pytest.approx(np.std(goes.values["B"].values, ddof=1))
    assert {(d.first, d.second): d.beyond_noise for d in goes.differences} == {
        ("A", "B"): True, ("A", "C"): True, ("B", "C"): True}
    assert all(d.entities == 20 and d.seeds == 3 for d in goes.differences)
    assert stays.aim == "higher" and stays.best == "B" and stays.marked is None and stays.level_with_best == ("C",)
    assert "not told from C. Beyond noise of A." in finding(stays)
    assert "beyond noise of every other" in finding(goes)


def test_rates_of_one_recipe_are_groups_of_their_own(make: Make) -> None:
    folders = [make("npo", seed, {"forget.probability": 1e3 * lr, "forget.rouge_l": 0.5}, lr=lr)
               for lr in (1e-4, 3e-4) for seed in (0, 1)]
    found = expunge.compare(folders)
    assert [g.title for g in found.groups] == ["npo lr=0.0001", "npo lr=0.0003"]
    assert found.scores[0].best is None and "no retrained model to be near to" in finding(found.scores[0])
    assert finding(found.scores[1]) == "forget.rouge_l: the same in all groups."


def test_one_seed_gives_no_claim(make: Make) -> None:
    found = expunge.compare([make("ga", 0, {"model_utility": 0.1}), make("npo", 0, {"model_utility": 0.9})])
    score, = found.scores
    assert score.best == "B" and score.marked is None and score.differences[0].p is None
    assert score.values["A"].deviation is None
    assert finding(score) == "model_utility (highest): B, but no claim: one seed."
    folders = [make(name, seed, {"model_utility": value + seed / 100})
               for name, value, seeds in (("ga", 0.1, (0, 1)), ("npo", 0.9, (0,))) for seed in seeds]
    assert finding(expunge.compare(folders).scores[0]) == "model_utility (highest): B, but no claim: B has one seed."
    assert "*" not in FORMATS["csv"](found) and "textbf" not in FORMATS["latex"](found)
    assert not any("*" in cell for row in table(found)[1] for cell in row)


def test_what_cannot_be_compared_is_said(make: Make, tmp_path: Path) -> None:
    first = make("ga", 0, {"forget.probability": 0.1})
    other = make("npo", 0, {"forget.probability": 0.1}, task="u")
    assert any("different tasks" in line for line in expunge.compare([first, other]).cautions)
    again = tmp_path / "copy"
    shutil.copytree(first, again)
    with pytest.raises(DataError, match="Seed 0 of 'ga' is given twice"):
        expunge.compare([first, again])
    (again / "audit.json").unlink()
    with pytest.raises(MissingError, match="has been audited"):
        expunge.compare(again)
    with pytest.raises(UsageError, match="no score called") as unknown:
        expunge.compare([first], scores="forget.probabilty")
    assert "Did you mean forget.probability" in unknown.value.why


def test_only_common_seeds_make_a_difference(make: Make) -> None:
    """One group has a good seed that the other lacks: mean of the table, not of the difference or of the best."""
    rows = {("ga", 0): 0.50, ("ga", 1): 0.52, ("ga", 2): 0.99, ("npo", 0): 0.60, ("npo", 1): 0.61}
    found = expunge.compare([make(recipe, seed, {"model_utility": value}) for (recipe, seed), value in rows.items()])
    score, = found.scores
    pair, = score.differences
    assert pair.seeds == 2 and pair.difference == pytest.approx(-0.095) == pytest.approx(np.mean(pair.interval))
    assert score.values["A"].mean > score.values["B"].mean and score.best == "B"
    assert "by seeds in common" in " ".join(notes(found))
    apart = expunge.compare([make("ssd", seed, {"model_utility": 0.1}) for seed in (0, 1)]
                            + [make("rmu", seed, {"model_utility": 0.2}) for seed in (7, 8)])
    assert apart.scores[0].best is None and apart.scores[0].differences[0].difference is None
    assert "no seed in common" in finding(apart.scores[0])


def test_beyond_noise_is_the_same_on_the_screen_and_in_json(make: Make) -> None:
    """Three groups; one p-value is below 5 % only until it is adjusted."""
    values = {"ga": (0.560, 0.561, 0.562), "npo": (0.60, 0.60, 0.60), "rmu": (0.57, 0.555, 0.545)}
    found = expunge.compare([make(recipe, seed, {"model_utility": value}) for recipe, of in values.items()
                             for seed, value in enumerate(of)])
    score, = found.scores
    of_best = {d.first if d.second == score.best else d.second: d for d in score.differences
               if score.best in (d.first, d.second)}
    assert score.best == "B" and score.level_with_best == tuple(g for g, d in of_best.items() if not d.beyond_noise)
    close = of_best["C"]
    assert close.p is not None and close.p_adjusted is not None and close.p < 0.05 < close.p_adjusted
    stored = json.loads(FORMATS["json"](found))["scores"][0]["differences"]
    assert [d["beyond_noise"] for d in stored] == [d.beyond_noise for d in score.differences] == [True, False, False]
    assert score.marked is None and "not told from C" in finding(score)


def test_two_sides_of_the_target_may_be_equally_far(make: Make) -> None:
    found = expunge.compare([make(recipe, seed, {"forget.probability": near(value, seed)},
                                  retrained={"forget.probability": 0.3})
                             for recipe, value in (("ga", 0.1), ("npo", 0.5)) for seed in range(3)])
    score, = found.scores
    assert score.differences[0].beyond_noise and score.marked is None and len(score.level_with_best) == 1


def test_models_without_a_record_stand_alone(make: Make) -> None:
    found = expunge.compare([make("x", None, {"model_utility": 0.1}), make("y", None, {"model_utility": 0.2})])
    assert len(found.groups) == 2 and found.groups[0].seeds == (None,) and found.scores[0].marked is None


def test_distances_on_both_sides_of_the_target() -> None:
    low = reflected({0: Measured(0.1, {"a": 0.0, "b": 0.2}, {})}, 0.3)
    high = reflected({0: Measured(0.5, {"a": 0.4, "b": 0.6}, {})}, 0.3)
    assert low[0].value == pytest.approx(0.2) == high[0].value
    assert low[0].rows == pytest.approx({"a": 0.3, "b": 0.1}) and high[0].rows == pytest.approx({"a": 0.1, "b": 0.3})


def test_a_grid_stands_for_its_cells(small: tuple[Path, Grid], cli: Any) -> None:
    """Every format, from the command line; figures are those of the audits."""
    out, made = small
    said = cli("compare", out).out
    assert "A: ga lr=0.001; 2 seeds;" in said and "D: npo + retain_nll lr=0.003" in said and "retrained" in said
    assert "paired t-test over seeds" in " ".join(said.split())
    found = Comparison.model_validate(json.loads(cli("compare", out, "--format", "json").out))
    assert cli("compare", out, "--json").json == found.to_json()
    score = next(s for s in found.scores if s.name == "forget.probability")
    values = [c.scores["forget.probability"] for c in made.cells if c.key[:2] == ("ga", 1e-3)]
    assert score.values["A"].values == tuple(values) and len(score.differences) == 6
    rows = list(csv.DictReader(io.StringIO(cli("compare", out, "--format", "csv", "--scores", "all").out)))
    assert {row["score"] for row in rows} == {"forget.probability", "forget.exact_memorization", "retain.probability",
                                              "mia.loss"}
    latex = cli("compare", out, "--format", "latex", "--scores", "forget.exact_memorization").out
    assert r"forget.exact\_memorization" in latex and r"npo + retain\_nll" in latex and r"\pm" in latex
    assert latex.count(r"\\") == 1 + 2 + 4
    cli.refused("compare", out, "--format", "word", says=("There is no format",))
    cli.refused("compare", out / "nowhere", says=("There is no folder",))


NAMES = ("forget.probability", "retain.probability", "forget.keyword", "mia.loss", "forget.refusal", "privleak",
         "forget.recited", "model_utility")


@pytest.mark.parametrize(("count", "shown"), [(1, 1), (3, 3), (6, 6), (8, 4)])
def test_no_score_is_left_out_without_a_word(make: Make, count: int, shown: int) -> None:
    runs = [make(recipe, 0, dict.fromkeys(NAMES[:count], 0.5)) for recipe in ("ga", "npo")]
    found = expunge.compare(runs)
    assert len(found.scores) == shown and {s.name for s in found.scores} | {*found.left_out} == {*NAMES[:count]}
    said = " ".join(left_out(found))
    assert (said == "") is (shown == count) and all(name in said and "--scores all" in said for name in found.left_out)
    everything = expunge.compare(runs, scores="all")
    assert len(everything.scores) == count and not left_out(everything)


def test_scores_under_attack_and_those_that_no_audit_has_are_named(make: Make, cli: Any) -> None:
    runs = [make(recipe, 0, {"forget.probability": 0.5}) for recipe in ("ga", "npo")]
    for run in runs:
        audit = Audit.read(run / "audit.json")
        more = (Score(name="forget.keyword", value=None, unavailable="no row has a short answer"),
                Score(name="forget.probability", attack="prefix", value=0.5, n=4))
        audit.model_copy(update={"scores": (*audit.scores, *more)}).write(run / "audit.json")
    said = cli("compare", *runs).out
    assert "forget.keyword: not available, no row has a short answer" in said
    assert "Not shown: 1 score under attack (--scores attacks)." in said
    cli.refused("compare", *runs, "--scores", "forget.keyword", says=("no row has a short answer",))
    assert "under attack" not in cli("compare", *runs, "--scores", "forget.probability@prefix").out.partition("\n\n")[0]


def test_cells_without_scores_are_named(small: tuple[Path, Grid], tmp_path: Path, cli: Any) -> None:
    """Some failed, one waits; then none is finished; then only one is."""
    out, made = tmp_path / "lame", small[1]
    shutil.copytree(small[0], out)
    lame = [c.model_copy(update={"status": "failed", "failed": "no"}) if c.method == "ga" and c.lr == 1e-3 else c
            for c in made.cells]
    lame[-1] = lame[-1].model_copy(update={"status": "waiting"})
    made.model_copy(update={"cells": tuple(lame)}).write(out / "grid.json")
    said = ("3 of 8 cells of the grid lame failed or wait, so they have no scores: ga lr=0.001 (failed): seeds 0, 1; "
            "npo + retain_nll lr=0.003 (waiting): seed 1.")
    assert said in expunge.compare(out).cautions and said in " ".join(cli("compare", out).err.split())
    assert said in expunge.report([out], out=tmp_path / "a.html").read_text(encoding="utf-8")
    one = [c.model_copy(update={"status": "failed", "failed": "no"}) for c in made.cells[1:]]
    made.model_copy(update={"cells": (made.cells[0], *one)}).write(out / "grid.json")
    assert "7 of 8 cells" in expunge.report([out], out=tmp_path / "b.html").read_text(encoding="utf-8")
    made.model_copy(update={"cells": tuple(one)}).write(out / "grid.json")
    for verb in (("compare", out), ("report", out, "--out", tmp_path / "c.html")):
        cli.refused(*verb, says=("None of these grids has a finished cell.", "7 of 7 cells", "--resume"))


def test_who_is_beaten_by_no_other() -> None:
    points = [("a", 1.0, 0.0), ("b", 0.5, 0.5), ("c", 0.4, 0.4), ("d", 0.0, 1.0), ("e", 0.5, 0.5)]
    assert [p[0] for p in unbeaten(points, lambda p: (p[1], p[2]))] == ["a", "b", "e", "d"]
    assert unbeaten([], lambda p: (0.0, 0.0)) == []


def test_the_page_of_a_grid_shows_front_curves_and_noise(small: tuple[Path, Grid], tmp_path: Path) -> None:
    page = expunge.report([str(small[0])], out=str(tmp_path / "page.html")).read_text(encoding="utf-8")
    for said in ("Pareto front", "Forget probability while training", "Utility while training", "What is beyond noise",
                 "ga lr=0.001", "paired t-test over seeds", "Pareto front of 4 groups."):
        assert said in page, said
    one = expunge.report([small[0] / small[1].cells[0].folder], out=tmp_path / "one.html").read_text(encoding="utf-8")
    assert "What is beyond noise" not in one and "Pareto front" not in one
