"""Every benchmark from its files to its scores: loaded, trained with and without forget rows, unlearned, audited."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import NamedTuple

import pytest

import expunge
from expunge.benchmarks.loading import default_suite, load_task, task_names
from expunge.records.task import Task
from expunge.testing.layouts import LAYOUTS, written

from ..conftest import save_model
from .conftest import SHARED


class Walk(NamedTuple):
    """One way through a benchmark."""

    task: str
    without: tuple[str, ...] = ()
    """Scores that have no value on such a small model and so few rows."""
    suite: str = ""
    """What is asked in place of the task's own suite, where that takes minutes."""

    @property
    def plain(self) -> str:
        return self.task.split("(")[0].split(":")[0]


SHORT = "scores, paraphrase(count=1)"
TOFU = ("forget_quality, model_utility, privleak, mia.min_k, forget.truth_ratio, retain.rouge_l, utility.truth_ratio, "
        "paraphrase(count=1)")
GRAPHS = "utility.graph_answer(group=graph), retain.graph_answer, utility.accuracy(group=graph), forget.probability"
NOTHING_BACK = ("neighbour.recovery",)
"""Neither model says a right answer."""
FEW = ("leak_share",)
"""Too few holdout rows."""
UNNAMED = ("forget.keyword", "holdout.keyword")
"""TOFU names no bare facts."""
ABSENT = (
    *(f"{split}.membership_score(group=mia{score})" for split in ("forget", "retain")
      for score in ("", ", score=zlib", ", score=min_k", ", score=min_k_pp")),
    "utility.accepted(group=reason, measure=exact, reasoned=True)", "utility.accepted(group=factuality, measure=f1)",
    "utility.ngram_entropy(group=fluency)")
"""Of RWKU the probes are here, without its membership and utility files."""
MADE = (
    Walk("rwku(targets=2)"), Walk("restor", NOTHING_BACK), Walk("muse:news"), Walk("muse:books"), Walk("wmdp:bio"),
    Walk("wmdp:cyber"), Walk("wmdp:chem"), Walk("dusk(words=20)"), Walk("knowundo:privacy"),
    Walk("knowundo:copyright"), Walk("lume"), Walk("pch(requests=4)"), Walk("ort"), Walk("kid"),
    Walk("conceptvectors(words=20)"), Walk("counterfact(edits=3)"),
    Walk("dynamicqa:static(every=4)"), Walk("dynamicqa:temporal(every=4)"), Walk("dynamicqa:disputable(every=4)"),
)
"""Made-up files in the published layout."""
BUILT_IN = (
    Walk("authors(forget=2,retain=3,holdout=2,neighbours=1)", ("uds",), SHORT),
    Walk("faithun(forget=2,retain=4,test=2)"), Walk("ocr(subjects=16,values=2,forget=2)"),
    Walk("code_leaks(forget=2,retain=2,holdout=3)"),
    Walk("crosslingual(forget=2,retain=4,holdout=2,taught=0.5)"), Walk("impossible(limit=4)", FEW),
    Walk("graph_reasoning(problems=7,asked=7,limit=9)", FEW), Walk("knowledge_preference(forget=2,retain=6)"),
)
"""No files."""
PUBLISHED = (
    Walk("tofu:forget01(limit=2)", suite=TOFU), Walk("blur_bench:tofu(forget=forget01,limit=2)"),
    Walk("rwku(limit=5)", ABSENT), Walk("restor(limit=2)", NOTHING_BACK), Walk("ort(limit=2)"),
    Walk("counterfact(limit=2)"),
    Walk("impossible(over=tofu:forget01,limit=2)", (*FEW, *UNNAMED)),
    Walk("graph_reasoning(over=tofu:forget01,problems=7,asked=7,limit=9)", suite=GRAPHS),
)
"""The published files, where they are here."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random and tiny, with room for prompts of several demonstrations, read byte by byte."""
    return save_model(tmp_path_factory.mktemp("models") / "long", max_position_embeddings=8192)


def walked(walk: Walk, data: Path | None, model: Path, folder: Path) -> dict[str, str | None]:
    """The plain scores that have no value, and why."""
    task = load_task(walk.task, data_dir=data)
    original, retrained, run = (folder / name for name in ("original", "retrained", "run"))
    expunge.train(model, task=task, split="retain", out=retrained, steps=20, lr=5e-3, batch_size=4)
    # Forget rows alone are known sooner than among all others.
    expunge.train(retrained, task=Task(name="forget alone", forget=task.forget), split="full", out=original, steps=20,
                  lr=1e-2, batch_size=4)
    expunge.forget(original, method="ga + retain_nll", task=task, out=run, steps=2, batch_size=2)
    steps = [json.loads(line) for line in (run / "steps.jsonl").read_text().splitlines()]
    assert any("loss" in json.dumps(step) for step in steps)
    suite = walk.suite or default_suite(walk.task)
    audit = expunge.audit(run, task=task, original=original, retrained=retrained, resamples=20, suite=suite,
                          out=folder / "audit")
    attacked = {score.attack for score in audit.scores if score.attack is not None}
    assert not attacked or any(score.value is not None for score in audit.scores if score.attack is not None)
    assert len(audit.scores) > 3 and audit.task == task.name
    return {score.name: score.unavailable for score in audit.scores if score.value is None and score.attack is None}


@pytest.mark.slow
@pytest.mark.parametrize("walk", MADE, ids=lambda walk: walk.task)
def test_files_in_the_published_layout(walk: Walk, model: Path, tmp_path: Path) -> None:
    lacking = walked(walk, written(walk.plain), model, tmp_path)
    assert set(lacking) == set(walk.without), lacking


@pytest.mark.slow
@pytest.mark.parametrize("walk", BUILT_IN, ids=lambda walk: walk.task)
def test_tasks_that_need_no_files(walk: Walk, model: Path, tmp_path: Path) -> None:
    lacking = walked(walk, None, model, tmp_path)
    assert set(lacking) == set(walk.without), lacking


@pytest.mark.slow
@pytest.mark.parametrize("walk", PUBLISHED, ids=lambda walk: walk.task)
def test_published_files(walk: Walk, model: Path, tmp_path: Path) -> None:
    data = Path(os.environ.get("EXPUNGE_TEST_DATA", SHARED))
    if not data.is_dir():
        pytest.skip(f"there is no {data}; EXPUNGE_TEST_DATA names the folder of published data")
    lacking = walked(walk, data, model, tmp_path)
    assert set(lacking) == set(walk.without), lacking


def test_every_task_is_walked() -> None:
    """Each name of the registry but the images, and each layout."""
    tasks = {walk.task.split("(")[0] for walk in (*MADE, *BUILT_IN, *PUBLISHED)}
    assert {name for name in task_names() if name not in tasks} <= {"digits", "tofu:forget05", "tofu:forget10"}
    assert {walk.plain for walk in MADE} == set(LAYOUTS)
