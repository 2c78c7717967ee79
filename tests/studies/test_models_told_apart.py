"""The studies traces and worst_case: their arithmetic by hand, and the published direction on small models."""

from __future__ import annotations

import json
import math
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pytest
import torch

import expunge
from expunge.benchmarks.digits import digits_task
from expunge.console import Reporter
from expunge.errors import ExpungeError
from expunge.records.study import Found, StudySettings
from expunge.report.study import picture, render_study
from expunge.studies.design import Design
from expunge.studies.traces import (
    AGAIN,
    KINDS,
    ORIGINAL,
    RETRAINED,
    VIEWS,
    Traces,
    accuracy_within,
    held_out,
    responses,
    shape_of,
    words_in,
)
from expunge.studies.worst_case import EASIEST, HARDEST, WorstCase, projected
from expunge.testing.support import CONFIG, memoriser, small_task, trained


def test_the_shape_of_a_distribution_does_not_depend_on_the_words() -> None:
    logits_NV = torch.randn(3, 768, generator=torch.Generator().manual_seed(0))
    permuted_NV = logits_NV[:, torch.randperm(768, generator=torch.Generator().manual_seed(1))]
    torch.testing.assert_close(shape_of(logits_NV), shape_of(permuted_NV))
    flat_NF = shape_of(torch.zeros(1, 8))
    torch.testing.assert_close(flat_NF[:, :-1], torch.full((1, 10), -math.log(8)))  # ranks beyond the last are the last
    torch.testing.assert_close(flat_NF[:, -1], torch.tensor([math.log(8)]))


def test_words_are_counted_as_shares() -> None:
    found_nF, names = words_in(["a b a", ""])
    assert names == ["(nothing)", "a", "a b", "b", "b a"]
    np.testing.assert_allclose(found_nF, [[0, 2 / 5, 1 / 5, 1 / 5, 1 / 5], [1, 0, 0, 0, 0]])
    again_nF, _ = words_in(["b c"], names)
    np.testing.assert_allclose(again_nF, [[0, 0, 0, 1 / 3, 0]])  # what was never seen only counts in the length


def said(shift: float, seed: int, count: int = 40) -> dict[str, Any]:
    """Answers whose distributions are shifted, with a word of their own where they are."""
    draw = np.random.default_rng(seed)
    return {"text": [f"word{draw.integers(5)}" + (" trace" if draw.random() < shift else "") for _ in range(count)],
            "logits": (draw.normal(size=(count, 11)) + 4 * shift).tolist()}


@pytest.mark.parametrize("view", ["text", "logits"])
def test_a_trace_that_models_share_is_found_on_a_model_that_was_left_out(view: str) -> None:
    models = [{ORIGINAL: said(0, 10 * i), "shared": said(1, 10 * i + 1), "none": said(0, 10 * i + 2),
               RETRAINED: said(0, 10 * i + 3)} for i in range(4)]
    assert accuracy_within(models[0][ORIGINAL], models[0]["shared"], view) > 0.95
    assert 0.3 < accuracy_within(models[0][ORIGINAL], models[0]["none"], view) < 0.7
    shared, none = held_out(models, ("shared",), view), held_out(models, ("none",), view)
    assert shared["accuracy"] > 0.95 and shared["right"] == shared["models"] == 8 and shared["retrained"] < 0.05
    assert 0.35 < none["accuracy"] < 0.65 and 0.2 < none["retrained"] < 0.8
    assert shared["right_originals"] == shared["originals"] == 4
    crossed = held_out(models, ("none",), view, asked=("shared",))
    assert crossed["models"] == 8


def test_what_traces_finds(tmp_path: Path) -> None:
    part = {"within": {name: {view: dict.fromkeys((*KINDS, "forget to unrelated"), 0.75) for view in VIEWS}
                       for name in (AGAIN, RETRAINED, "ga", "npo")},
            "unrelated": {name: said(float(name == "ga"), i, 16)
                          for i, name in enumerate((ORIGINAL, AGAIN, RETRAINED, "ga", "npo"))}}
    design = Traces(task=small_task(), model=None, settings=StudySettings(method="ga; npo;"), work=tmp_path,
                    reporter=Reporter(quiet=True))
    assert design.recipes == ("ga", "npo")
    found = design.found({f"model {i}": part for i in range(3)})
    assert found.figures["held_out"]["ga"]["text"]["accuracy"] == 1.0
    assert set(found.figures["held_out_model_and_method"]) == {"ga", "npo"} and AGAIN in found.figures["held_out"]
    assert found.findings[0].startswith("Told from its original by answers to unrelated prompts") and len(
        found.findings) == 4
    assert Found(**json.loads(json.dumps(found.to_json()))) == found and picture(found.charts[0])["data"]["values"]
    tasks = [design._task(i) for i in range(3)]
    assert all(len({r.entity for r in t.forget}) == len({r.entity for r in small_task().forget}) for t in tasks)
    assert all(not {r.entity for r in t.forget} & {r.entity for r in t.retain} for t in tasks)
    assert len({frozenset(r.entity for r in t.forget) for t in tasks}) > 1


def test_weights_are_projected_on_those_that_add_up() -> None:
    draw = np.random.default_rng(0)
    for count, total in ((20, 5), (7, 1), (5, 5), (6, 0)):
        values_n = draw.normal(size=count) * 2
        w_n = projected(values_n, total)
        assert abs(w_n.sum() - total) < 1e-6 and w_n.min() >= 0 and w_n.max() <= 1
        for _ in range(50):  # nearest: no other such weights are nearer
            other_n = projected(draw.normal(size=count) * 2, total)
            assert ((w_n - values_n) ** 2).sum() <= ((other_n - values_n) ** 2).sum() + 1e-6
    with pytest.raises(ValueError, match="cannot add up"):
        projected(np.zeros(3), 4)


def test_what_worst_case_finds(tmp_path: Path) -> None:
    def read(loss: float) -> dict[str, Any]:
        return {name: {"loss": loss, "said": math.exp(-loss), "kept": 1.0} for name in (ORIGINAL, RETRAINED, "ga")}

    sets = {HARDEST: read(0.1), EASIEST: read(3.0), "random 0": read(1.0), "random 1": read(1.2)}
    sets[HARDEST]["ga"] = {"loss": 2.0, "said": 0.1, "kept": 1.0}
    part = {"sets": {}, "curves": {HARDEST: [0.2, 0.1], EASIEST: [1.0, 3.0]}, "read": sets}
    design = WorstCase(task=small_task(), model=None, settings=StudySettings(count=2, method="ga"), work=tmp_path,
                       reporter=Reporter(quiet=True))
    found = design.found({"rows": part})
    assert "without it: loss 0.1 on the hardest set, 1 to 1.2 on random ones, 3 on the easiest; as published" in (
        found.findings[0]) and "less than every random one. Share of it still said: 0.9" in found.findings[0]
    assert "unlearned by ga: loss 2 on the hardest" in found.findings[1]
    assert "; not as published: the hardest set is forgotten less than 0 of 2 random ones" in found.findings[1]
    assert found.figures["rows"][RETRAINED]["loss"]["random"] == [1.0, 1.2]
    assert found.figures["rows"]["ga"]["gap"] == {HARDEST: 1.9, EASIEST: 0.0, "random": [0.0, 0.0]}
    assert Found(**json.loads(json.dumps(found.to_json()))) == found and picture(found.charts[0])["data"]["values"]
    assert set(design.units) == {"rows", "entities"}


@pytest.mark.parametrize(("name", "options", "says"), [
    ("traces", {"count": 2}, "--count 3 or more"),
    ("traces", {"method": "nonesuch"}, "nonesuch"),
    ("traces", {"model": "somewhere"}, "takes no model"),
    ("worst_case", {"method": "ga; nonesuch"}, "nonesuch"),
    ("worst_case", {"model": "somewhere"}, "takes no model"),
])
def test_wrong_input_is_refused(name: str, options: dict[str, Any], says: str, tmp_path: Path) -> None:
    with pytest.raises(ExpungeError, match=says) as refused:
        expunge.study(name, out=tmp_path / "study", **options)
    assert refused.value.exit_code in (2, 3) and not (tmp_path / "study").exists()


def test_rows_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    task = small_task()
    with pytest.raises(ExpungeError, match="too few rows for traces"):
        expunge.study("traces", out=tmp_path / "study", task=task.model_copy(update={"utility": ()}))
    with pytest.raises(ExpungeError, match="too few rows for a choice"):
        expunge.study("worst_case", out=tmp_path / "study", task=task.model_copy(update={"retain": ()}))


@pytest.mark.slow
def test_a_collapsed_model_is_told_from_its_original_and_an_original_is_not_told_from_itself() -> None:
    """By answers to prompts about people who stay; the classifier of states is at least as good as that of text."""
    rows = small_task().retain[:20]
    pushed = trained("ga", steps=30, lr=1e-3).subject
    original, again, collapsed = (responses(subject, rows, seed)
                                  for subject, seed in ((memoriser(), 0), (memoriser(), 1), (pushed, 2)))
    told = {view: accuracy_within(original, collapsed, view) for view in VIEWS}
    assert min(told.values()) > 0.9 and told["states"] >= told["text"]
    assert all(0.25 < accuracy_within(original, again, view) < 0.75 for view in VIEWS)


@pytest.mark.slow
def test_a_whole_study_of_traces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tmp_path / "config.json"
    config.write_text(json.dumps(CONFIG | {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}))
    monkeypatch.setattr(Design, "size", str(config))
    monkeypatch.setattr(Design, "training", {"epochs": 1, "batch_size": 24, "lr": 5e-3})
    task = small_task().model_copy(update={"utility": small_task().retain[:8]})
    first, again = (expunge.study("traces", out=tmp_path / out, task=task, count=3, method="ga", epochs=1.0)
                    for out in ("one", "two"))
    assert first.found and first.parts == again.parts and list(first.parts) == ["model 0", "model 1", "model 2"]
    assert not (tmp_path / "one" / "work").exists() and render_study(first).count("<svg") == 1


@pytest.mark.slow
def test_the_hardest_set_is_said_by_models_that_never_saw_it(tmp_path: Path) -> None:
    done = expunge.study("worst_case", out=tmp_path / "study", task=digits_task(forget="random:0.1", per_class=40),
                         count=4, method="l1_sparse + adamw(lr=1e-3)")
    assert done.found and list(done.parts) == ["rows"]
    loss = done.found.figures["rows"][RETRAINED]["loss"]
    assert loss[HARDEST] < fmean(loss["random"]) < loss[EASIEST]
    assert "; as published" in done.found.findings[0]
