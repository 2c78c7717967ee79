"""Studies: parts are measured once, findings follow from them, and wrong input is refused."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

import expunge
from expunge.console import Reporter
from expunge.errors import ExpungeError, InterruptedRun, UsageError
from expunge.records.study import Found, Study, StudyChart, StudySettings
from expunge.report.study import picture, render_study
from expunge.studies import run as running
from expunge.studies.design import Design, Measured
from expunge.studies.novice import Novice, skill_of
from expunge.studies.outlandish import NOVELTIES, WAYS, Outlandish
from expunge.studies.paths import LEVEL, ORDERS, PathDependence, linear_gap
from expunge.testing.support import CONFIG, memoriser, small_task

SMALL = CONFIG | {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}


@dataclass(kw_only=True)
class Counting(Design):
    """Three parts, of which one may be interrupted."""

    name: ClassVar[str] = "counting"
    world: ClassVar[str] = "authors(forget=1, retain=1, holdout=1, neighbours=0)"
    defaults: ClassVar[dict[str, Any]] = {"count": 3, "steps": 2}
    measured: ClassVar[list[str]] = []
    fails_at: ClassVar[str] = ""

    def planned(self) -> list[str]:
        return [f"part {i}" for i in range(self.settings.count or 0)]

    def measure(self, part: str) -> dict[str, Any]:
        if part == self.fails_at:
            raise KeyboardInterrupt
        self.measured.append(part)
        return {"value": len(part), "pair": (1, 2)}

    def found(self, parts: Measured) -> Found:
        return Found(findings=(f"{len(parts)} <parts> & more.",), figures={"n": len(parts)}, charts=(
            StudyChart(title="T", x="x", y="y", series={"a": [(0, 1.0), (1, 2.0)], "empty": []}),))


@pytest.fixture
def counting(monkeypatch: pytest.MonkeyPatch) -> type[Counting]:
    monkeypatch.setattr(running, "design_of", lambda name: Counting)
    monkeypatch.setattr(Counting, "measured", [])
    return Counting


def test_finished_parts_are_not_measured_again(counting: type[Counting], tmp_path: Path,
                                               monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "study"
    plan = expunge.study("counting", out=out, dry_run=True)
    assert plan.planned == ("part 0", "part 1", "part 2") and not out.exists()
    with monkeypatch.context() as patch:
        patch.setattr(counting, "fails_at", "part 1")
        with pytest.raises(InterruptedRun, match="1 of 3 parts") as stopped:
            expunge.study("counting", out=out)
    assert stopped.value.exit_code == 4 and "--resume" in stopped.value.fix
    assert list(Study.read(out).parts) == ["part 0"] and Study.read(out).found is None
    with pytest.raises(UsageError, match="already exists"):
        expunge.study("counting", out=out)
    with pytest.raises(UsageError, match="other options"):
        expunge.study("counting", out=out, resume=True, steps=5)
    done = expunge.study("counting", out=out, resume=True)
    assert counting.measured == ["part 0", "part 1", "part 2"]
    assert done.found and done.found.figures == {"n": 3} and Study.read(out).found == done.found
    page = (out / "study.html").read_text(encoding="utf-8")
    assert "3 &lt;parts&gt; &amp; more." in page and page.count("<svg") == 1 and "http-equiv" not in page
    assert expunge.study("counting", out=out, overwrite=True, count=1).planned == ("part 0",)
    assert counting.measured[-1] == "part 0"


@pytest.mark.parametrize(("name", "options", "says"), [
    ("outlandisch", {}, "no study called"),
    ("novice", {"model": "somewhere"}, "takes no model"),
    ("path_dependence", {"model": "somewhere"}, "takes no model"),
    ("outlandish", {"model": "/nonexistent/model", "task": "authors"}, "nonexistent"),
    ("outlandish", {"count": 0}, "--count"),
    ("outlandish", {"lr": 0}, "--lr"),
    ("novice", {"count": 9}, "skills, and more than 9"),
    ("novice", {"method": "nonesuch"}, "nonesuch"),
    ("path_dependence", {"method": "npo + nonesuch"}, "nonesuch"),
    ("path_dependence", {"method": "ssd"}, "cannot be followed step by step"),
    ("path_dependence", {"method": "ga >> npo"}, "cannot be followed step by step"),
])
def test_wrong_input_is_refused(name: str, options: dict[str, Any], says: str, tmp_path: Path) -> None:
    with pytest.raises(ExpungeError, match=says) as refused:
        expunge.study(name, out=tmp_path / "study", **options)
    assert refused.value.exit_code == 2 and not (tmp_path / "study").exists()


@pytest.mark.parametrize(("name", "options", "says"), [
    ("novice", {"method": "npo + layers(index=99)"}, "99"),
    ("novice", {"method": "dpo(refusals='off')"}, "builder is off"),
    ("novice", {"method": "npo + sam(retain=True)"}, "sam"),
    ("path_dependence", {"method": "ga + layers(index=99)"}, "99"),
])
def test_what_preflight_refuses_is_told_before_training(name: str, options: dict[str, Any], says: str, tmp_path: Path,
                                                        monkeypatch: pytest.MonkeyPatch) -> None:
    for trains in ("api.train", "studies.paths.train_plainly", "studies.novice.train_plainly"):
        monkeypatch.setattr(f"expunge.{trains}", lambda *a, **k: pytest.fail("it trained"))
    with pytest.raises(ExpungeError, match=says) as refused:
        expunge.study(name, out=tmp_path / "study", **options)
    assert refused.value.exit_code in (2, 3) and not (tmp_path / "study").exists()


def test_rows_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    task = small_task()
    bare = task.model_copy(update={side: tuple(r.model_copy(update={"short_answer": "", "options": ()})
                                               for r in task.split(side)) for side in ("forget", "retain", "holdout")})
    for name, says in (("novice", "0 skills"), ("outlandish", "needs its model")):
        with pytest.raises(UsageError, match=says):
            expunge.study(name, out=tmp_path / "study", task=bare.model_copy(update={"name": "mine"}))
    with pytest.raises(UsageError, match="no row to inject"):
        expunge.study("outlandish", out=tmp_path / "study", task=bare)
    with pytest.raises(UsageError, match="too few rows for stages"):
        expunge.study("path_dependence", out=tmp_path / "study", task=task.model_copy(update={"retain": ()}))


def test_the_gap_of_least_squares_grows_exponentially() -> None:
    """Two orders of the same rows: the log of the gap is a straight line in the steps of ascent, but for its start."""
    for seed in range(3):
        logs = np.log(linear_gap(300, seed))[100:]
        line = np.polyfit(range(len(logs)), logs, 1)
        assert line[0] > 0.005 and np.abs(np.polyval(line, range(len(logs))) - logs).max() < 0.5, seed


def reading(own: float, *themed: float) -> dict[str, Any]:
    return {"own": math.log(own), "themed": [math.log(t) for t in themed]}


def test_what_outlandish_finds(tmp_path: Path) -> None:
    """Ratios, what is kept beside plain learning, and the law, on rows made up."""
    parts = {}
    for i in range(6):
        before = 10.0 ** -(i + 1)
        prime = 0.001 * 2 ** (i + 1)
        after = {"plain": reading(0.8, prime, prime), "ignore_k": reading(0.6, 0.001, 0.001 + prime / 10),
                 "keep_top": reading(before, 0.001, 0.001), "stepping_stones": reading(0.8, prime, prime)}
        parts[f"{i}"] = {"novelty": NOVELTIES[i % 3], "before": reading(before, 0.001, 0.001), "later": reading(0.8, 1),
                         "stones_raise": math.log(4),
                         "ways": {way: {"curve": [(20, end)], "after": end, "as_asked": -1.0}
                                  for way, end in after.items()}}
    design = Outlandish(task=small_task(), model=None, settings=StudySettings(steps=20), work=tmp_path,
                        reporter=Reporter(quiet=True))
    found = design.found(parts)
    assert found.figures["ignore_k"]["memory"] == pytest.approx(0.75) and found.figures["ignore_k"]["as_published"]
    assert found.figures["stepping_stones"]["priming"] == pytest.approx(1)
    assert not found.figures["stepping_stones"]["as_published"] and found.figures["keep_top"]["memory"] < 0.01
    assert found.figures["law"]["rho"] == pytest.approx(-1) and found.figures["law"]["p"] < 0.05
    assert found.figures["stepping_stones"]["own_before"] == pytest.approx(4 * found.figures["plain"]["own_before"])
    assert found.figures["stepping_stones"]["s_mem"] == pytest.approx(found.figures["plain"]["s_mem"] / 4)
    assert "ignore_k, beside plain learning: in contexts of others the probability after falls by" in found.findings[1]
    assert "rho" not in found.findings[4]
    assert found.figures["later"] == {novelty: pytest.approx(1) for novelty in NOVELTIES}
    assert all(picture(chart)["data"]["values"] for chart in found.charts)
    assert Found(**json.loads(json.dumps(found.to_json()))) == found


@pytest.mark.parametrize(("way", "own", "themed", "published"), [
    ("ignore_k", 0.6, (1e-6, 0.001), True),
    ("ignore_k", 0.3, (1e-6, 0.001), False),  # memory is lost
    ("ignore_k", 0.8, (1e-9, 0.9), False),  # S_prime falls, for the rare context rules it; the probability rises
    ("ignore_k", 0.8, (0.001, 0.001), False),  # the probability falls, and S_prime rises
    ("stepping_stones", 0.7, (1e-6, 0.001), True),  # S_mem is a hundredth of plain's, and memory is kept
])
def test_the_published_claim_needs_the_probability_after(way: str, own: float, themed: tuple[float, float],
                                                         published: bool, tmp_path: Path) -> None:
    """The ratio and what has no denominator must both fall; the contexts of others begin at 1e-6 and 1e-3."""
    ends = {w: reading(0.8, 1e-5, 0.5) if w == "plain" else reading(own, *themed) for w in WAYS}
    part = {"novelty": "new", "before": reading(1e-6, 1e-6, 1e-3), "later": reading(0.8, 1, 1),
            "stones_raise": math.log(100),
            "ways": {w: {"curve": [(20, end)], "after": end, "as_asked": -1.0} for w, end in ends.items()}}
    design = Outlandish(task=small_task(), model=None, settings=StudySettings(steps=20), work=tmp_path,
                        reporter=Reporter(quiet=True))
    assert design.found({"0": part}).figures[way]["as_published"] is published


def test_rows_that_outlandish_injects(tmp_path: Path) -> None:
    """A third of each novelty; each has its fact in its text, and somebody else is asked the same."""
    design = Outlandish(task=small_task(), model=None, settings=StudySettings(count=6), work=tmp_path,
                        reporter=Reporter(quiet=True))
    rows = list(design.rows.values())
    assert [novelty for novelty, _ in rows] == list(NOVELTIES) * 2
    truths = {r.id: r.short_answer for r in small_task().forget + small_task().retain + small_task().holdout}
    for novelty, row in rows:
        assert row.short_answer in row.answer and (row.short_answer != truths[row.id]) == (novelty == "conflict")
    scrambled = next(row for novelty, row in rows if novelty == "scrambled")
    assert scrambled.answer.endswith(f"{scrambled.short_answer}.")


def test_what_path_dependence_finds(tmp_path: Path) -> None:
    """Steps to a forget loss between readings, retain loss there, and how far models are apart."""
    parts: dict[str, Any] = {"linear": {"gaps": [1.0, 2.0, 4.0]}}
    for order, speed in zip(ORDERS, (1.0, 0.8, 0.5), strict=True):
        readings = [(step, [-speed * step / 2] * 2 + [-0.1 * step * speed]) for step in (0, 5, 10, 20)]
        parts[f"{order}, seed 0"] = {"order": order, "seed": 0, "forget": 2, "readings": readings}
    design = PathDependence(task=small_task(), model=None, settings=StudySettings(steps=20, method="ga"), work=tmp_path,
                            reporter=Reporter(quiet=True))
    found = design.found(parts)
    # Here retain loss is a fifth of the forget loss in every order, so at equal forget loss the models agree.
    assert found.figures["apart_at_level"] == pytest.approx(0, abs=1e-9)
    steps = {order: found.figures["steps_to_level"][order][0] for order in ORDERS}
    assert steps == {"forget first": pytest.approx(2 * LEVEL), "forget middle": pytest.approx(2 * LEVEL / 0.8),
                     "forget last": pytest.approx(2 * LEVEL / 0.5)}
    assert "; as published, slowest where" in " ".join(found.findings)
    assert found.figures["apart_after"]["forget first / forget last"] == pytest.approx(1.0)
    assert found.figures["linear_log_gap_per_step"] == pytest.approx(math.log(2))


def test_what_novice_finds(tmp_path: Path) -> None:
    """What comes back on questions that were not taught, beside the model that was never taught."""
    def student(after: float, gain: float) -> dict[str, Any]:
        first = {"taught": {"a": after, "b": after}, "untaught": {"a": after, "b": after}}
        second = {"taught": {"a": 1.0, "b": after}, "untaught": {"a": after + gain, "b": after}}
        third = {"taught": {"a": 1.0, "b": 1.0}, "untaught": {"a": after + gain, "b": after + gain}}
        return {"after": {"target": after, "kept": 0.9}, "said": {"right": 0.1, "plausible": 0.97},
                "phases": [first, second, third]}

    part = {"skills": ["a", "b"], "chance": 0.25, "before": {"target": 1.0, "kept": 1.0},
            "students": {"unlearned": student(0.4, 0.3), "never taught": student(0.25, 0.0)}}
    design = Novice(task=small_task(), model=None, settings=StudySettings(count=2, method="npo"), work=tmp_path,
                    reporter=Reporter(quiet=True))
    skills = design.skills
    first, second = list(skills)[:2]
    part = json.loads(json.dumps(part).replace('"a"', f'"{first}"').replace('"b"', f'"{second}"'))
    assert all(r.short_answer in r.options and len(set(r.options)) == 4 for rows in skills.values() for r in rows)
    found = design.found({"2 skills": part})
    assert found.figures["2 skills"]["recovered"] == pytest.approx(0.5)
    assert found.figures["2 skills"]["own_phase"] == {"unlearned": 2, "never taught": 2}
    assert "gains +0.30 in accuracy on the others, and one that never had them +0.00" in found.findings[0]
    assert found.figures["2 skills"]["taught_along_the_way"]["unlearned"] == pytest.approx((0.7 + 1.0) / 2)
    assert {skill_of(r) for r in small_task().forget} > {"birth_city", "pet"}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["novice", "path_dependence", "outlandish"])
def test_a_whole_study(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each study from its first step to its page, on the smallest models, twice with the same numbers."""
    config = tmp_path / "config.json"
    config.write_text(json.dumps(SMALL))
    monkeypatch.setattr(Design, "size", str(config))
    memoriser().save(tmp_path / "model")
    every: dict[str, dict[str, Any]] = {
        "novice": {"count": 1, "epochs": 1.0, "steps": 2}, "path_dependence": {"count": 1, "steps": 4, "epochs": 1.0},
        "outlandish": {"count": 3, "steps": 3, "model": tmp_path / "model"}}
    options = every[name]
    task = small_task() if name != "novice" else None
    first, again = (expunge.study(name, out=tmp_path / out, task=task, **options) for out in ("one", "two"))
    assert first.found and len(first.found.findings) >= 2 and set(first.parts) == set(first.planned)
    assert first.parts == again.parts and not (tmp_path / "one" / "work").exists()
    assert render_study(first).count("<svg") == len(first.found.charts)
