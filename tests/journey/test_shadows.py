"""Shadow models: who is in which, what is kept, and that going on repeats nothing."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import expunge
from expunge import shadows
from expunge.data.world import authors_task
from expunge.errors import UsageError
from expunge.records.shadows import Shadows
from expunge.records.task import Example, Task
from expunge.shadows import assign, make_shadows, pool_of, shadow_task
from expunge.testing.support import CONFIG

TASK = authors_task(forget=2, retain=1, holdout=2, neighbours=0).model_copy(update={"utility": (), "background": ()})
SHORT: dict[str, Any] = {"count": 4, "train_epochs": 1, "epochs": 1, "train_lr": 1e-3, "task": TASK}


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(CONFIG | {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}))
    return path


def test_everybody_is_in_half_of_the_shadows() -> None:
    people = [f"p{i}" for i in range(16)]
    found = assign(people, 12, seed=0)
    assert all(Counter(states.values()) == {"forgotten": 4, "kept": 4, "out": 8} for states in found)
    for p in people:
        assert Counter(states[p] for states in found) == {"forgotten": 3, "kept": 3, "out": 6}
    together = [{p for p in people if states[p] == "forgotten"} for states in found]
    assert len(set(map(frozenset, together))) == 12, "the quarters are drawn anew every four shadows"
    assert found == assign(people[::-1], 12, seed=0) != assign(people, 12, seed=1)
    assert assign(people, 16, seed=0)[:12] == found, "more shadows leave the first ones as they were"


def test_no_row_of_the_pool_tells_about_anybody_else() -> None:
    world = authors_task(forget=4, retain=2, holdout=4, neighbours=2)
    pool = pool_of(world)
    assert {r.group for r in pool} == {"attribute", "biography"}, "mentors and what follows from them are left out"
    names = {r.entity for r in pool}
    assert len(names) == 8 and not any(n in r.answer + r.prompt for r in pool for n in names - {r.entity})


def test_who_is_out_is_nowhere_in_a_shadow() -> None:
    pool = pool_of(TASK)
    states = assign(sorted({r.entity for r in pool}), 4, seed=0)[0]
    task = shadow_task(TASK, pool, states)
    assert {states[r.entity] for r in task.forget} == {"forgotten"}
    said = " ".join(task.texts())
    assert {p for p in states if p in said} == {p for p in states if states[p] != "out"}
    assert not task.holdout, "nothing could be chosen by looking at people who are out"


@pytest.mark.slow
def test_a_set_of_shadows_and_going_on(config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    method = "grad_diff + adamw(lr=1e-3)"
    found = make_shadows(method, out=tmp_path / "whole", model=config, **SHORT)
    assert found == Shadows.read(tmp_path / "whole" / "shadows.json")
    assert (found.finished, found.trainings) == (12, 12) and set(found.results) == {"original", "retrained", method}
    files = sorted((tmp_path / "whole" / "rows").glob("*.jsonl"))
    assert len(files) == 12 and not (tmp_path / "whole" / "work").exists()
    rows = shadows.read_rows(tmp_path / "whole")
    assert len(rows) == 12 * found.points and all(-100 <= r["phi"] <= 100 for r in rows)
    assert all(found.states[r["shadow"]][r["entity"]] == r["state"] for r in rows)
    for measures in found.results.values():
        assert measures["ulira"]["unavailable"] == "a row has only 1 models on one side; 2 are needed"
        assert measures["klom"]["models"] == 1

    made = api_calls(monkeypatch)
    again = make_shadows(method, out=tmp_path / "whole", model=config, resume=True, **SHORT)
    assert not made and again.results == found.results, "what is there is not made again"

    class Killed(Exception):
        pass

    def stop(*args: Any, **options: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(shadows.api, "forget", stop)
        with pytest.raises(Killed):
            make_shadows(method, out=tmp_path / "cut", model=config, **SHORT)
    assert len(list((tmp_path / "cut" / "rows").glob("*.jsonl"))) == 1
    resumed = make_shadows(method, out=tmp_path / "cut", model=config, resume=True, **SHORT)
    assert [p.read_text() for p in sorted((tmp_path / "cut" / "rows").glob("*"))] == [p.read_text() for p in files]
    assert resumed.results == found.results
    with pytest.raises(UsageError, match="seed was 0 and is now 1"):
        make_shadows(method, out=tmp_path / "cut", model=config, resume=True, seed=1, **SHORT)
    for option, value, before in (("accumulate", 2, "1"), ("lr", 0.5, "null")):
        with pytest.raises(UsageError, match=rf"settings\.{option} was {before} and is now {value}\."):
            make_shadows(method, out=tmp_path / "cut", model=config, resume=True, **{option: value}, **SHORT)
    with pytest.raises(UsageError, match="already exists"):
        make_shadows(method, out=tmp_path / "cut", model=config, **SHORT)


def api_calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    made: list[str] = []
    for name in ("train", "forget"):
        real = getattr(shadows.api, name)
        monkeypatch.setattr(shadows.api, name, lambda *a, real=real, name=name, **o: made.append(name) or real(*a, **o))
    return made


@pytest.mark.parametrize(("change", "says"), [
    ({"methods": "retrained"}, "nothing called 'retrained'|retrained"), ({"count": 3}, "--count must be at least 4"),
    ({"methods": ("ga", "ga")}, "each named once"),
    ({"task": authors_task(forget=1, retain=2, holdout=1)}, "2 entities .* too few"),
])
def test_what_cannot_be(change: dict[str, Any], says: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=says):
        make_shadows(**{"methods": "ga", "out": tmp_path / "out", **SHORT, **change})
    assert not (tmp_path / "out").exists()


def test_it_is_a_verb_of_the_package() -> None:
    assert expunge.make_shadows is make_shadows


def test_a_base_that_met_the_rows_is_refused(config: Path, tmp_path: Path) -> None:
    for split in ("full", "retain"):
        expunge.train(config, task=TASK, out=tmp_path / split, epochs=1, split=split)
    assert make_shadows("ga", out=tmp_path / "out", **SHORT, model=tmp_path / "retain", dry_run=True).trainings == 12
    with pytest.raises(UsageError, match="was itself trained on forget or holdout rows"):
        make_shadows("ga", out=tmp_path / "out", **SHORT, model=tmp_path / "full", dry_run=True)
    with pytest.raises(UsageError, match="is no way to train an original"):
        make_shadows("ga", out=tmp_path / "out", **SHORT, model=config, trainer="npo")
    with pytest.raises(UsageError, match="needs a model to start from"):
        make_shadows("ga", out=tmp_path / "out", **SHORT, model=config, trainer="retain_nll + lora")


def test_whole_names_alone_leave_a_row_out() -> None:
    """A row about Anna does not name Ann."""
    told = [("Ann", "sings"), ("Anna", "cooks"), ("Bo", "knows Ann"), ("田中", "は走る"), ("Cy", "は田中と走る")]
    rows = [Example(id=str(i), prompt=f"Who is {who}?", answer=f"{who} {said}", entity=who)
            for i, (who, said) in enumerate(told)]
    assert {r.entity for r in pool_of(Task(name="names", forget=tuple(rows)))} == {"Ann", "Anna", "田中"}


@pytest.mark.slow
def test_adapters_on_a_base_and_rows_without_entities(config: Path, tmp_path: Path) -> None:
    """Rows of files, in which every row is its own entity; originals and unlearned models are adapters."""
    for name, first in (("forget", 0), ("holdout", 4), ("retain", 8)):
        (tmp_path / f"{name}.jsonl").write_text("".join(
            json.dumps({"question": f"What is item {i}?", "answer": f"Item {i} is number {i * 7 % 5}."}) + "\n"
            for i in range(first, first + 4)))
    files = {name: tmp_path / f"{name}.jsonl" for name in ("forget", "retain", "holdout")}
    expunge.train(config, task=TASK, out=tmp_path / "base", epochs=1)
    made = make_shadows("npo + retain_nll + lora(rank=2)", out=tmp_path / "out", model=tmp_path / "base", count=4,
                        task=expunge.load_task(**files), trainer="retain_nll + lora(rank=2)", train_epochs=1, epochs=1)
    assert (made.finished, made.points) == (12, 8) and set(made.states[0]) == {f"forget/{i}" for i in range(4)} | {
        f"holdout/{i}" for i in range(4)}
    assert made.settings["train_lr"] == 1e-4 and made.results["original"]["entities"]["of"] == 8
