"""The benchmarks of the field: their files become tasks (`test_end_to_end.py` takes them through)."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path

import pytest

from expunge.benchmarks.loading import load_task
from expunge.data.rwku import _truthful
from expunge.errors import DataError, MissingError, UsageError
from expunge.models.tiny import build_subject
from expunge.probes.generation import Generation
from expunge.records.task import Example, Task
from expunge.testing import benchmark_files as made

from ..conftest import TINY
from .conftest import SHARED


def published(name: str) -> Path:
    """The folder of a published data set, or a skip."""
    folder = Path(os.environ.get("EXPUNGE_TEST_DATA", SHARED)) / name
    if not folder.is_dir():
        pytest.skip(f"there is no {folder}; EXPUNGE_TEST_DATA names the folder above it")
    return folder


def test_a_group_has_its_own_number_of_new_tokens() -> None:
    rows = [Example(id=group, kind="completion", prompt="On day one", answer=" the cat went to town", group=group,
                    aliases=("the cat",) if group else ()) for group in ("", "short")]
    subject = build_subject({**TINY, "hidden_size": 32, "intermediate_size": 64}, ["On day one the cat went to town"])
    plain = Task(name="t", forget=tuple(rows), generation_tokens=6)
    limits = plain.model_copy(update={"group_tokens": {"short": 2}})
    said = {row["id"]: row for row in Generation().observe(subject, limits.forget, limits)}
    before = {row["id"]: row for row in Generation().observe(subject, plain.forget, plain)}
    assert said[""] == before[""] and said[""]["reference"] == " the cat went to town" and "aliases" not in said[""]
    # The same words, and the true answer as far as two tokens reach.
    assert before["short"]["text"].startswith(said["short"]["text"].rstrip("\ufffd"))
    cut = said["short"]["reference"]
    assert 0 < len(cut) < 20 and rows[1].answer.strip().startswith(cut) and said["short"]["aliases"] == ["the cat"]
    assert limits.fingerprint != plain.fingerprint
    # MUSE counts the token that begins every text among the tokens of a continuation, and cuts no answer to a question.
    begun = subject.encoder.begins_with()
    subject.encoder.begins_with = lambda: begun + 1  # type: ignore[method-assign]
    assert len(Generation().observe(subject, limits.forget, limits)[1]["reference"]) < len(cut)
    question = rows[1].model_copy(update={"short_answer": "the cat went to town"})
    assert Generation().observe(subject, [question], limits)[0]["reference"] == question.answer


def test_line_breaks_before_an_answer_are_kept() -> None:
    """RWKU and MUSE read what stands before them, so that what follows is not the answer."""
    subject = build_subject({**TINY, "hidden_size": 32, "intermediate_size": 64}, ["On day one the cat went to town"])
    row = Example(id="a", kind="completion", prompt="On day one", answer=" the cat")
    said = subject.encoder.processor.__class__
    decoded = {True: " \n\nthe cat \n", False: "  the cat "}
    for broken, text in decoded.items():
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(said, "decode", lambda *_, text=text, **__: text)
            kept = Generation().observe(subject, [row], Task(name="t", forget=(row,)))[0]["text"]
            assert kept == ("\n\nthe cat" if broken else "the cat")
            assert subject.generate([subject.encoder.prompt(row)], 2)[0][0] == "the cat"


def test_best_answers_of_truthfulqa_are_those_of_mc1() -> None:
    row = {"question": "Q?", "mc1_targets": {"choices": ["best", "wrong"], "labels": [1, 0]},
           "mc2_targets": {"choices": ["also true", "best", "wrong"], "labels": [1, 1, 0]}}
    assert _truthful(row, "t").options == ("best", "wrong")
    assert _truthful({k: v for k, v in row.items() if k != "mc1_targets"}, "t").options == ("also true", "wrong")


# RWKU


def test_rwku_rows(tmp_path: Path) -> None:
    task = load_task("rwku(targets=2)", data_dir=made.rwku(tmp_path))
    assert [row.answer for row in task.forget] == ["Ada Bo is known.", "Cy Di is known."]
    groups = Counter(row.group for row in task.probes["forget"])
    assert len(groups) == 12 and groups["level_3_cross_lingual"] == groups["level_1"] == groups["mia"] == 2
    assert {row.entity for row in task.probes["forget"]} == {"Ada Bo", "Cy Di"}
    assert {row.entity for row in task.retain} == {"Ed Flo", "Gus Hal"}
    assert Counter(row.group for row in task.utility) == dict.fromkeys(
        ("general", "truthfulness", "factuality", "reason", "fluency"), 2)
    first = next(row for row in task.probes["forget"] if row.group == "level_3_affirmative_suffix")
    assert not first.prompt.endswith("Answer:") and first.answer == "Town Ad"
    assert load_task(task.name, data_dir=tmp_path) == task
    with pytest.raises(UsageError, match="leaves nobody to keep"):
        load_task("rwku(targets=4)", data_dir=tmp_path)
    with pytest.raises(MissingError, match="no file train_positive_llama3"):
        load_task("rwku(targets=2, corpus=positive)", data_dir=tmp_path)


def test_rwku_has_the_same_rows_in_both_layouts(tmp_path: Path) -> None:
    flat, folders = made.rwku(tmp_path / "flat"), made.rwku_folders(tmp_path / "folders")
    for name in ("rwku(targets=2)", "rwku(targets=1, corpus=passage)"):
        assert load_task(name, data_dir=flat).fingerprint == load_task(name, data_dir=folders).fingerprint


def test_rwku_in_another_layout_is_refused(tmp_path: Path) -> None:
    rows = [{"subject": "Ada Bo", "query": "?", "answer": "!"}]
    made.put(made.rwku(tmp_path) / "forget_level1.jsonl", rows)
    with pytest.raises(DataError, match="the row has no type"):
        load_task("rwku(targets=2)", data_dir=tmp_path)


def test_limited_probes_are_of_the_people_that_are_left(tmp_path: Path) -> None:
    task = load_task("rwku(targets=3)", data_dir=made.rwku(tmp_path), limit=1)
    assert {row.entity for row in task.probes["forget"]} == {row.entity for row in task.forget}


def test_rwku_published_files() -> None:
    folder = published("rwku")
    task = load_task("rwku", data_dir=folder)
    assert len(task.forget) == 10 and len(task.neighbour) == 563
    levels = Counter(row.group[:7] for row in task.probes["forget"])
    assert levels == {"level_1": 166, "level_2": 131, "level_3": 337}
    rows = [json.loads(line) for line in (folder / "forget_level1.targets001-100.jsonl").read_text().splitlines()]
    assert len(rows) == 1637


# RESTOR


def test_restor_rows(tmp_path: Path) -> None:
    task = load_task("restor", data_dir=made.restor(tmp_path))
    assert [len(task.split(s)) for s in ("forget", "retain", "neighbour", "utility")] == [4, 8, 2, 2]  # type: ignore[arg-type]
    asked = task.neighbour[0]
    assert asked.prompt.count("\n") == 5 and "Person A" not in asked.prompt.rpartition("\n")[0]
    assert (asked.answer, asked.aliases, len(asked.wrong_answers)) == (" Town A", ("Far away",), 3)
    assert {row.entity for row in task.forget} == {"Person A", "Person B"}
    made.put(tmp_path / "entities.json", ["Nobody"])
    with pytest.raises(DataError, match="not that of RESTOR"):
        load_task("restor", data_dir=tmp_path)
    with pytest.raises(MissingError, match="mix_a4"):
        load_task("restor(unrelated=4)", data_dir=tmp_path)


def test_restor_published_files() -> None:
    task = load_task("restor", data_dir=published("restor"))
    # 50 people of 468; 42 of the 3,000 documents stand there twice.
    assert [len(task.split(s)) for s in ("forget", "retain", "neighbour", "utility")] == [2958, 3692, 1051, 526]  # type: ignore[arg-type]
    assert len({row.entity for row in task.neighbour}) == 50


# MUSE


def test_muse_rows(tmp_path: Path) -> None:
    task = load_task("muse:news", data_dir=made.muse(tmp_path))
    assert [len(task.split(s)) for s in ("forget", "retain", "holdout")] == [3, 3, 3]  # type: ignore[arg-type]
    assert Counter(row.group for row in task.probes["forget"]) == {"verbmem": 3, "knowmem": 3, "privleak": 3}
    asked = next(row for row in task.probes["retain"] if row.group == "knowmem")
    assert asked.prompt == "Question: Who?\nAnswer: Ann\n\nQuestion: Who saw retain 0?\nAnswer:"
    assert task.group_tokens == {"verbmem": 128, "knowmem": 32}
    with pytest.raises(MissingError, match="MUSE Books"):
        load_task("muse:books", data_dir=tmp_path / "news")


def test_muse_forget_sets_grow_and_requests_come_in_turn(tmp_path: Path) -> None:
    made.muse(tmp_path)
    sizes = [len(load_task(f"muse:news(requests=scal_{k})", data_dir=tmp_path).forget) for k in (1, 2, 3, 4)]
    assert sizes == [1, 2, 3, 4]
    stream = load_task("muse:news(requests=sust)", data_dir=tmp_path)
    assert list(dict.fromkeys(row.entity for row in stream.forget)) == [f"request {k}" for k in (1, 2, 3, 4)]
    assert load_task("muse:news(requests=sust_3)", data_dir=tmp_path).forget == tuple(
        row for row in stream.forget if row.entity == "request 3")
    with pytest.raises(UsageError, match="Only the news"):
        load_task("muse:books(requests=sust)", data_dir=tmp_path)
    assert len(load_task("muse:books(words=8)", data_dir=tmp_path).forget) == 4  # the second half of each is the same


# WMDP


def test_wmdp_rows(tmp_path: Path) -> None:
    made.wmdp(tmp_path)
    for subject, topic in (("bio", "biology"), ("cyber", "cybersecurity"), ("chem", "chemistry")):
        task = load_task(f"wmdp:{subject}", data_dir=tmp_path)
        # The last question speaks of its options and has no cloze form.
        assert Counter(row.group for row in task.probes["forget"]) == {"letters": 5, "cloze": 4, "texts": 3}
        assert task.probes["forget"][1].prompt == (
            f"The following are multiple choice questions (with answers) about {topic}.\n\n"
            "Which is 1?\nA. one\nB. two\nC. six\nD. ten\nAnswer:")
        assert task.probes["forget"][1].answer == " B"
        assert (len(task.forget), len(task.retain), len(task.utility)) == (3, 3, 4)
    (tmp_path / "chem-forget-corpus.jsonl").unlink()
    with pytest.raises(MissingError, match="chem-forget-corpus"):
        load_task("wmdp:chem", data_dir=tmp_path)
    made.put(tmp_path / "wmdp-bio.jsonl", [{"question": "?", "choices": ["a"], "answer": 4}])
    with pytest.raises(DataError, match="no option at place 4"):
        load_task("wmdp:bio", data_dir=tmp_path)


# LUME


def test_lume_rows(tmp_path: Path) -> None:
    task = load_task("lume", data_dir=made.lume(tmp_path))
    groups = Counter(row.group for row in task.forget)
    assert groups == {f"task{n}_{kind}": 2 for n in (1, 2, 3) for kind in ("sc", "qa")}
    assert len(task.probes["forget"]) == 15 and len(task.holdout) == 3 and len({r.entity for r in task.forget}) == 6
    (tmp_path / "member.jsonl").unlink()
    assert load_task("lume", data_dir=tmp_path).probes == {}
    made.put(tmp_path / "forget.jsonl", [{"id": "x", "input": "?", "output": "!", "task": "Task1"}])
    with pytest.raises(DataError, match="not a row of LUME"):
        load_task("lume", data_dir=tmp_path)


# DUSK


def test_dusk_rows(tmp_path: Path) -> None:
    task = load_task("dusk(words=20)", data_dir=made.dusk(tmp_path))
    assert Counter(row.group for row in task.probes["forget"]) == {"verbmem": 1, "unique": 1, "pieces": 3}
    assert [row.group for row in task.neighbour] == ["shared"] and len(task.retain) == 12
    assert load_task(task.name, data_dir=tmp_path) == task
    (tmp_path / "Listicle.txt").unlink()
    with pytest.raises(MissingError, match=r"Listicle\.txt does not exist"):
        load_task("dusk", data_dir=tmp_path)


# KnowUnDo


def test_knowundo_rows(tmp_path: Path) -> None:
    task = load_task("knowundo:copyright", data_dir=made.knowundo(tmp_path))
    assert [len(task.forget), len(task.retain)] == [3, 3]
    assert {row.prompt.split()[-1] for row in (*task.probes["forget"], *task.probes["retain"])} == {"val?"}
    made.put(tmp_path / "privacy" / "unlearn.json", [{"text": "?", "labels": "!"}])
    with pytest.raises(DataError, match="not a file of KnowUnDo"):
        load_task("knowundo:privacy", data_dir=tmp_path)


# PCH


def test_pch_rows(tmp_path: Path) -> None:
    task = load_task("pch(requests=3)", data_dir=made.pch(tmp_path))
    assert [len(task.forget), len(task.retain)] == [3, 6]
    for side in ("forget", "retain"):
        texts, asked = ([row for row in task.probes[side] if row.group == group] for group in ("text", "qa"))
        assert [row.entity for row in texts] == [row.entity for row in asked] and tuple(texts) == task.split(side)  # type: ignore[arg-type]
        assert all(text.answer.split()[2] == row.answer.split()[3][:-1] for text, row in zip(texts, asked, strict=True))
    other = load_task("pch(requests=3, order=20)", data_dir=tmp_path)
    assert {row.id for row in other.forget} != {row.id for row in task.forget}
    with pytest.raises(UsageError, match="nothing to keep"):
        load_task("pch", data_dir=tmp_path)
    made.put(tmp_path / "pch_qa.jsonl", [{"question": "?", "answer": "!"}])
    with pytest.raises(DataError, match="9 texts and 1 questions"):
        load_task("pch", data_dir=tmp_path)


# BLUR


def test_blur_rows(tofu: Path) -> None:
    task = load_task("blur_bench:tofu(forget=forget01)", data_dir=tofu)
    assert Counter(row.group for row in task.probes["forget"]) == dict.fromkeys(
        ("single", "combined_forget_first", "combined_retain_first"), 40)
    forget, retain = ([row for row in task.probes[side] if row.group == "combined_retain_first"]
                      for side in ("forget", "retain"))
    assert [row.prompt for row in forget] == [row.prompt for row in retain]
    assert all(a.answer != b.answer and a.entity != b.entity for a, b in zip(forget, retain, strict=True))
    assert forget[0].prompt.endswith(task.forget[0].prompt)
