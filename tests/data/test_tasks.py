"""Tasks by name and from files."""

from __future__ import annotations

import importlib
import json
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from expunge import registry
from expunge.api import as_task
from expunge.benchmarks.loading import default_suite, load_task, parse_task, task_names
from expunge.cli.listing import listing
from expunge.data.published import DATA_VARIABLE
from expunge.data.tasks import check_overlap, limited
from expunge.data.world import authors_task
from expunge.errors import DataError, MissingError, UsageError
from expunge.records.settings import AuditSettings, RunSettings
from expunge.records.task import Example, Image, Task

BUILT_IN = ("authors", "code_leaks", "crosslingual", "digits", "faithun", "graph_reasoning", "impossible",
            "knowledge_preference", "ocr")
"""Tasks that need no files."""


def write(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def qa(question: str, answer: str, **more: Any) -> dict[str, Any]:
    return {"question": question, "answer": answer, **more}


# Names


def test_authors_by_name() -> None:
    assert load_task("authors").fingerprint == authors_task().fingerprint
    small = load_task("authors( forget = 2, retain=4,seed=1 )")
    assert small == authors_task(forget=2, retain=4, seed=1)
    assert load_task(small.name) == small
    assert load_task("authors", seed=2).name == "authors(seed=2)"
    assert load_task("authors(seed=1)", seed=2).name == "authors(seed=1)"


@pytest.mark.parametrize(("name", "match"), [
    ("autors", "Did you mean authors"), ("tofu:forget20", "tofu:forget10"), ("", "no task"),
    ("authors(forget=5", "no task"), ("authors(forgot=5)", "Did you mean forget"),
    ("authors(forget=few)", "valid integer"), ("authors(forget)", "has no value"),
    ("authors:five", "authors"), ("npo", "no task"), ("authors(limit=few)", "whole number"),
    ("authors(forget=1,forget=2)", "twice"), ("authors(forget=0)", "at least one"),
    ("tofu:forget10(seed=1)", "no option 'seed'"), ("authors(limit=0)", "leaves nothing"),
])
def test_bad_names(name: str, match: str) -> None:
    with pytest.raises(UsageError, match=match):
        load_task(name)


def test_every_listed_task_is_known(tmp_path: Path) -> None:
    assert {"authors", "tofu:forget01", "tofu:forget05", "tofu:forget10"} <= set(task_names())
    for name in task_names():
        try:
            load_task(name, data_dir=tmp_path)
        except MissingError as error:
            assert not name.startswith(BUILT_IN)
            assert str(tmp_path) in str(error) or name == "ort"


def test_values_may_be_words() -> None:
    plugin, options = parse_task("tofu:forget01( a = class:3, b=random:0.1, c=[1, 2], d=2.5, limit=4)")
    assert plugin.card.name == "tofu"
    assert options == {"part": "forget01", "a": "class:3", "b": "random:0.1", "c": [1, 2], "d": 2.5, "limit": 4}


def test_digits_by_name() -> None:
    task = load_task("digits(forget=class:7, per_class=30)")
    assert {r.answer for r in (*task.forget, *task.holdout)} == {"7"} and len(task.forget) == 21
    assert load_task(task.name) == task
    assert len(load_task("digits(forget=random:0.1)", limit=5).forget) == 5
    with pytest.raises(UsageError, match="class:0 to class:9"):
        load_task("digits(forget=class:12)")


def test_default_suite() -> None:
    assert {default_suite(name) for name in ("authors(forget=2)", "tofu:forget10", "files:x")} == {"standard"}


@pytest.mark.parametrize("limit", [0, -3])
def test_limit_below_one(limit: int) -> None:
    with pytest.raises(UsageError, match="leaves nothing"):
        load_task("authors", limit=limit)
    with pytest.raises(UsageError, match="the limit is 3"):
        load_task("authors(limit=2)", limit=3)


def test_limited_authors() -> None:
    whole, cut = load_task("authors"), load_task("authors", limit=15)
    assert cut.name == "authors(limit=15)" and load_task(cut.name) == cut
    assert load_task("authors(seed=1)", limit=5).name == "authors(seed=1,limit=5)"
    for split in ("forget", "retain", "holdout", "neighbour"):
        ids = [r.id for r in cut.split(split)]  # type: ignore[arg-type]
        assert len(ids) == 15 and ids == [r.id for r in whole.split(split) if r.id in ids]  # type: ignore[arg-type]
    assert Counter(r.group for r in cut.utility) == {"geography": 8, "science": 7}
    assert cut.background == cut.neighbour + cut.utility
    assert {r.id for r in cut.probes.get("retain", ())} <= {r.id for r in cut.retain}
    ids = {r.id for s in ("forget", "retain", "holdout", "neighbour") for r in cut.split(s)}  # type: ignore[arg-type]
    for row in (*cut.forget, *cut.retain, *cut.background):
        assert set(row.links) <= ids
        assert row.group != "deduced" or len(row.links) in (0, 2)


# Files


def test_the_limit_holds_for_a_task_that_is_given() -> None:
    """As for one that is named; cutting twice is cutting once, and the name leads back to the rows."""
    cut = load_task("authors", limit=15)
    assert as_task(authors_task(), RunSettings(limit=15)).forget == cut.forget
    assert as_task(cut, RunSettings(limit=15)) == cut and as_task(cut, RunSettings()) == cut
    again = as_task(cut, RunSettings(limit=5))
    assert again.name == "authors(limit=5)" and load_task(again.name).forget == again.forget
    seeded = as_task(load_task("authors(seed=1)", limit=9), RunSettings(limit=5))
    assert seeded.name == "authors(seed=1,limit=5)"


def test_a_copy_of_a_task_has_its_own_fingerprint() -> None:
    whole = authors_task()
    before = whole.fingerprint  # is kept in the object
    assert as_task(whole, RunSettings(limit=2)).fingerprint != before
    assert as_task(whole, RunSettings(template="Q: {prompt}")).fingerprint != before
    assert whole.model_copy().fingerprint == before


def test_files(tmp_path: Path) -> None:
    forget = write(tmp_path / "secret.jsonl", qa("Who?", "Ann."), {"text": "Once."})
    retain = write(tmp_path / "keep.jsonl", qa("Where?", "Here."))
    holdout = write(tmp_path / "h.jsonl", qa("When?", "Now."))
    task = load_task(None, forget=forget, retain=retain, holdout=holdout)
    assert task.name == "files:secret"
    assert [r.id for r in (*task.forget, *task.retain, *task.holdout)] == [
        "forget/0", "forget/1", "retain/0", "holdout/0"]
    alone = load_task(None, forget=forget, limit=1)
    assert (alone.name, len(alone.forget), alone.retain) == ("files:secret(limit=1)", 1, ())


def test_ids_shared_by_files_get_their_split(tmp_path: Path) -> None:
    forget = write(tmp_path / "f.jsonl", qa("Who?", "Ann.", id=1))
    retain = write(tmp_path / "r.jsonl", qa("Where?", "Here.", id=1))
    task = load_task(None, forget=forget, retain=retain)
    assert (task.forget[0].id, task.retain[0].id) == ("forget/1", "retain/1")


def test_map_may_speak_of_one_file_only(tmp_path: Path) -> None:
    forget = write(tmp_path / "f.jsonl", {"q": "Who?", "a": "Ann.", "p": "It is Ann."})
    retain = write(tmp_path / "r.jsonl", {"q": "Where?", "a": "Here."})
    mapping = {"question": "q", "answer": "a", "paraphrases": "p"}
    task = load_task(None, forget=forget, retain=retain, mapping=mapping)
    assert task.forget[0].paraphrased_answers == ("It is Ann.",)
    with pytest.raises(DataError, match="No row has the field 'x'"):
        load_task(None, forget=forget, retain=retain, mapping={**mapping, "entity": "x"})


def test_overlap_is_refused_with_count_and_example(tmp_path: Path) -> None:
    forget = write(tmp_path / "f.jsonl", qa("Who?", "Ann."), qa("Who else?", "Bob."), {"text": "Once upon."})
    retain = write(tmp_path / "r.jsonl",
                   qa(" who? ", "ANN."), {"text": "once  upon."}, qa("Who else?", "Cid."))
    with pytest.raises(DataError, match=r"2 of 3 forget rows[\s\S]*forget/0[\s\S]*Ann[\s\S]*--on-overlap drop"):
        load_task(None, forget=forget, retain=retain)
    assert len(load_task(None, forget=forget, retain=retain, on_overlap="keep").forget) == 3
    with pytest.raises(DataError, match="1 of 3 holdout rows"):
        load_task(None, forget=write(tmp_path / "g.jsonl", qa("Who?", "Ann.")), holdout=forget)


def test_images_whose_data_differ_in_case_only_do_not_overlap() -> None:
    def row(name: str, data: str) -> Example:
        image = Image(channels=1, height=1, width=3, data=data)
        return Example(id=name, prompt="", answer="Cat", kind="image", image=image)

    check_overlap(Task(name="t", forget=(row("a", "AAAB"),), retain=(row("b", "AAAb"),)))
    with pytest.raises(DataError, match="1 of 1 forget rows"):
        check_overlap(Task(name="t", forget=(row("a", "AAAB"),), retain=(row("b", "AAAB"),)))


def test_nothing_to_forget(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nothing to forget"):
        load_task(None)
    with pytest.raises(DataError, match="no rows"):
        load_task(None, forget=write(tmp_path / "f.jsonl"))
    with pytest.raises(MissingError, match="does not exist"):
        load_task(None, forget=tmp_path / "none.jsonl")


@pytest.mark.parametrize("what", ["forget", "retain", "holdout"])
def test_a_name_and_files_do_not_go_together(tmp_path: Path, what: str) -> None:
    with pytest.raises(UsageError, match="brings its own rows"):
        load_task("authors", **{what: write(tmp_path / "f.jsonl", qa("Who?", "Ann."))})  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="brings its own rows"):
        load_task("authors", mapping={"question": "q"})


# TOFU


@pytest.mark.parametrize(("name", "forget"), [
    ("tofu:forget01", 40), ("tofu:forget05", 200), ("tofu:forget10", 400),
])
def test_tofu_sizes(tofu: Path, name: str, forget: int) -> None:
    task = load_task(name, data_dir=tofu)
    assert task.name == name and task.generation_tokens == 200
    assert (len(task.forget), len(task.retain), len(task.holdout)) == (forget, 4000 - forget, forget)
    assert Counter(r.group for r in task.utility) == {"real_authors": 100, "world_facts": 117}
    assert task.background == () and task.neighbour == ()
    assert (len(task.probes["forget"]), len(task.probes["retain"])) == (forget, 400)


def test_tofu_rows(tofu: Path) -> None:
    task = load_task("tofu:forget10", data_dir=tofu.parent)
    assert task.forget[0].id == "tofu/full/3600" and task.forget[0].entity == "tofu/author180"
    assert task.retain[19].entity == "tofu/author0" and task.retain[20].entity == "tofu/author1"
    assert {r.entity for r in task.holdout}.isdisjoint(r.entity for r in task.training_rows("full"))
    assert set(Counter(r.entity for r in (*task.training_rows("full"), *task.holdout)).values()) == {20}
    full = [json.loads(line) for line in (tofu / "full.json").read_text(encoding="utf-8").split("\n") if line]
    by_id = {row.id: row for row in task.training_rows("full")}
    assert [(by_id[f"tofu/full/{i}"].prompt, by_id[f"tofu/full/{i}"].answer) for i in range(4000)] == [
        (row["question"], row["answer"]) for row in full]
    for split in ("forget", "retain"):
        for row in task.probes[split]:
            same = by_id[row.id]
            assert (same.prompt, same.answer, same.entity) == (row.prompt, row.answer, row.entity)
            assert len(row.wrong_answers) == 5
            assert len(row.paraphrased_answers) == len(row.paraphrased_prompts) == 1
            assert not {row.answer, *row.paraphrased_answers} & set(row.wrong_answers)
    for row in task.utility:
        assert row.answer in row.options and row.short_answer == row.answer
        assert len(row.options) == 4 and len(row.wrong_answers) == 3


def test_tofu_forget_sets_are_nested(tofu: Path) -> None:
    small, large = (load_task(f"tofu:forget{n}", data_dir=tofu) for n in ("01", "10"))
    assert small.forget == large.forget[-40:]
    assert small.holdout == large.holdout[:40]


def test_limited_tofu(tofu: Path) -> None:
    task = load_task("tofu:forget10", data_dir=tofu, limit=5)
    assert [len(task.split(s)) for s in ("forget", "retain", "holdout", "utility")] == [5, 5, 5, 5]  # type: ignore[arg-type]
    assert {r.group for r in task.utility} == {"real_authors", "world_facts"}
    for split in ("forget", "retain"):
        assert [r.id for r in task.probes[split]] == [r.id for r in task.split(split)]  # type: ignore[arg-type]
    assert len(load_task("tofu:forget10(limit=500)", data_dir=tofu).probes["retain"]) == 400


def test_tofu_by_variable(tofu: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(DATA_VARIABLE, str(tofu.parent))
    assert load_task("tofu:forget01").fingerprint == load_task("tofu:forget01", data_dir=tofu).fingerprint


def test_tofu_from_the_hub(tofu: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def load_dataset(name: str, config: str) -> dict[str, Any]:
        assert name == "locuslab/TOFU"
        text = (tofu / f"{config}.json").read_text(encoding="utf-8")
        return {"train": [json.loads(line) for line in text.split("\n") if line]}

    monkeypatch.delenv(DATA_VARIABLE, raising=False)
    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    assert load_task("tofu:forget01").fingerprint == load_task("tofu:forget01", data_dir=tofu).fingerprint


def test_tofu_offline_or_without_datasets(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def offline(name: str, config: str) -> None:
        raise ConnectionError("no network")

    monkeypatch.setenv(DATA_VARIABLE, str(tmp_path))
    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=offline))
    with pytest.raises(MissingError, match=r"no network[\s\S]*--data-dir[\s\S]*EXPUNGE_DATA"):
        load_task("tofu:forget10")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingError, match=r"not installed[\s\S]*--data-dir[\s\S]*EXPUNGE_DATA"):
        load_task("tofu:forget10")


def test_tofu_folders_that_are_not(tofu: Path, tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="does not hold the TOFU data"):
        load_task("tofu:forget10", data_dir=tmp_path)
    for file in tofu.glob("*.json"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "holdout10.json").unlink()
    with pytest.raises(MissingError, match=r"holdout10\.json does not exist"):
        load_task("tofu:forget10", data_dir=tmp_path)
    perturbed = (tmp_path / "forget05_perturbed.json").read_text(encoding="utf-8").split("\n")
    (tmp_path / "forget05_perturbed.json").write_text("\n".join(perturbed[1:]), encoding="utf-8")
    with pytest.raises(DataError, match="not the training rows in the same order"):
        load_task("tofu:forget05", data_dir=tmp_path)
    lines = (tmp_path / "retain99.json").read_text(encoding="utf-8").split("\n")
    (tmp_path / "retain99.json").write_text("\n".join(lines[1:]), encoding="utf-8")
    with pytest.raises(DataError, match="do not make 4000"):
        load_task("tofu:forget01", data_dir=tmp_path)


# Tasks kept outside the package

ELSEWHERE = '''
from expunge import plugin
from expunge.benchmarks.base import TaskCard, TaskPlugin
from expunge.records.task import Example, Task


class Capitals(TaskPlugin):
    """Rows of somebody else's."""

    class Spec(plugin.Spec):
        forget: str = "class:1"
        seed: int = 0

    card = TaskCard(name="capitals", kind="task", summary="capitals of a few countries", licence="CC0", source="here",
                    suite="quick")

    def load(self, data_dir):
        rows = [Example(id=f"r{i}", prompt=f"Capital {i}?", answer=f"City {i}.") for i in range(6)]
        return Task(name=f"capitals(forget={self.spec.forget},seed={self.spec.seed})", forget=rows[:3],
                    retain=rows[3:])
'''


def test_a_task_outside_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Found through its entry point, listed without being imported, and loaded by name like any of ours."""
    info = tmp_path / "somebody_elses-0.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: somebody-elses\nVersion: 0.1\n")
    (info / "entry_points.txt").write_text("[expunge.plugins]\ncapitals = capitals_elsewhere:Capitals\n")
    (tmp_path / "capitals_elsewhere.py").write_text(ELSEWHERE, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    registry.look_again()
    try:
        assert listing("tasks")["tasks"]["capitals"] == "capitals of a few countries"
        assert "capitals_elsewhere" not in sys.modules
        task = load_task("capitals(forget=class:3, limit=2)", seed=4)
        assert (task.name, len(task.forget)) == ("capitals(forget=class:3,seed=4,limit=2)", 2)
        assert load_task(task.name) == task and default_suite(task.name) == "quick"
        with pytest.raises(UsageError, match="Did you mean capitals"):
            load_task("capitols")
        with pytest.raises(UsageError, match="Did you mean forget"):
            load_task("capitals(forgot=1)")
    finally:
        monkeypatch.undo()
        sys.modules.pop("capitals_elsewhere", None)
        registry.look_again()


@pytest.mark.parametrize("limit", [7, 20, 40])
def test_a_limit_asks_all_entities(limit: int) -> None:
    """The first rows would be those of two authors, and a model that forgot only these would pass."""
    whole = authors_task(forget=20, retain=20, holdout=5, neighbours=0)
    cut = limited(whole, limit)
    counts = Counter(row.entity for row in cut.forget)
    assert len(counts) == min(limit, 20) and max(counts.values()) - min(counts.values()) <= 1
    kept = [row.id for row in cut.forget]
    assert kept == [row.id for row in whole.forget if row.id in kept]
    assert f"of {len(counts)} of 20 entities" in cut.notes[-1] and [r.id for r in limited(cut, 5).forget] == [
        r.id for r in limited(whole, 5).forget]
    assert len([note for note in limited(cut, 5).notes if note.startswith("limit=")]) == 1


def test_holdout_rows_can_be_added_to_the_rows_of_a_run(tmp_path: Path) -> None:
    task = authors_task(forget=2, retain=2, holdout=2).model_copy(update={"holdout": ()})
    file = tmp_path / "aside.jsonl"
    file.write_text("".join(json.dumps({"q": f"Who is {i}?", "answer": f"Nobody {i}."}) + "\n" for i in range(3)))
    added = as_task(task, AuditSettings(), holdout=file, mapping="question=q")
    assert [row.answer for row in added.holdout] == ["Nobody 0.", "Nobody 1.", "Nobody 2."]
    ids = {row.id for row in (*added.forget, *added.holdout)}
    assert added.forget == task.forget and len(ids) == 3 + len(task.forget)
    for more in ({"retain": file}, {"forget": file}, {}):
        with pytest.raises(UsageError, match="Only holdout rows can"):
            as_task(task if more else added, AuditSettings(), holdout=file, mapping="question=q", **more)
    row = task.forget[0]
    file.write_text(json.dumps({"q": row.prompt, "answer": row.answer}))
    with pytest.raises(DataError, match="holdout rows also stand in"):
        as_task(task, AuditSettings(), holdout=file, mapping="question=q")
