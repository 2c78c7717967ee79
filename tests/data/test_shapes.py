"""Files as other people have them: each loads, or the message holds the --map under which it does."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from expunge.benchmarks.loading import load_task
from expunge.data.files import read_examples, read_rows, to_examples
from expunge.data.hints import propose
from expunge.data.mapping import parse_map
from expunge.data.shapes import FIELDS, SHAPES
from expunge.errors import DataError, UsageError
from expunge.records.task import Example

from ..cases import SHARED, case

QA = {"question": "Who?", "answer": "Ann."}


def write(path: Path, rows: Any) -> Path:
    """JSON Lines, or for .json the value itself."""
    lines = [rows] if path.suffix == ".json" else rows
    path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in lines) + "\n", encoding="utf-8")
    return path


def by_the_message(path: Path) -> tuple[str, tuple[Example, ...]]:
    """The file is refused; the --map of the message is pasted, and it loads."""
    with pytest.raises(DataError) as refused:
        read_examples(path)
    found = re.search(r"add --map (.*)$", str(refused.value), re.MULTILINE)
    assert found, str(refused.value)
    (words,) = shlex.split(found[1])
    return words, read_examples(path, mapping=parse_map(words, FIELDS))


# Files that were handed in


@pytest.mark.parametrize(("name", "count", "kind"), [
    ("mc_wmdp.jsonl", 2, "qa"), ("muse_raw_shape.json", 2, "text"), ("sharegpt.jsonl", 12, "messages"),
    ("msgs_parts.jsonl", 12, "messages"), ("msgs_tool.jsonl", 12, "messages"), ("gz.jsonl.gz", 13, "qa"),
    ("tabs.tsv", 12, "qa"), ("semicolon.csv", 12, "qa"), ("utf16.jsonl", 12, "qa"), ("int_answer.jsonl", 6, "qa"),
    ("dup.jsonl", 16, "qa"),
])
def test_cases_that_load(name: str, count: int, kind: str) -> None:
    rows = read_examples(case(name))
    assert len(rows) == count and {row.kind for row in rows} == {kind}
    assert all(row.answer.strip() for row in rows)
    if name.startswith(("sharegpt", "msgs", "tabs", "semicolon", "utf16")):
        assert rows[0].answer == "The author's full name is Hsiao Yun-Hwa."
        assert rows[0].prompt.startswith("What is the full name of the author born in Taipei")


def test_what_the_cases_become() -> None:
    first, second = read_examples(case("mc_wmdp.jsonl"))
    assert first.options == ("Oxygen", "Nitrogen", "Argon", "Helium")
    assert (first.answer, first.short_answer, second.answer) == ("Nitrogen", "Nitrogen", "Mercury")
    assert read_examples(case("int_answer.jsonl"))[-1].answer == "42"
    (row, *_), notes = to_examples(read_rows(case("msgs_tool.jsonl")), prefix="forget")
    assert [role for role, _ in row.messages] == ["user", "assistant", "tool"]
    assert json.loads(row.messages[1][1]) == {"name": "lookup", "arguments": {}}
    assert "given to the model as JSON" in notes[0]


@pytest.mark.parametrize(("name", "mapping", "kind"), [
    ("alpaca.jsonl", "question=instruction+input,answer=output", "qa"),
    ("knowundo_shape.json", "question=text,answer=labels", "qa"),
    ("counterfact_shape.json", "prompt=prompt,completion=ground_truth", "completion"),
    ("nested.json", "question=data.train[].question,answer=data.train[].answer", "qa"),
    ("nested_flat.json", "question=data[].question,answer=data[].answer", "qa"),
    ("nested_field.jsonl", "question=qa.question,answer=qa.answer", "qa"),
])
def test_cases_whose_message_names_the_map(name: str, mapping: str, kind: str) -> None:
    said, rows = by_the_message(case(name))
    assert said == mapping and {row.kind for row in rows} == {kind}
    assert all(row.prompt and row.answer for row in rows)


def test_a_list_that_is_a_text_is_one_message() -> None:
    with pytest.raises(DataError, match="line 1: 'wrong_answers' must be a list of texts, not one text") as refused:
        read_examples(case("wrong_str.jsonl"))
    assert str(refused.value).count("wrong_answers") == 2  # what is wrong, and how it is written


# Published data sets


@pytest.mark.parametrize("name", [
    "tofu/forget01.json", "tofu/forget01_perturbed.json", "tofu/real_authors.json", "restor/mix_a0.json",
    "utility/mmlu_dev.jsonl",
])
def test_published_files_load(name: str) -> None:
    rows = read_examples(data(name))
    assert len(rows) == len(read_rows(data(name)))
    if "real_authors" in name or "mmlu" in name:
        assert all(row.short_answer == row.answer and row.answer in row.options for row in rows)


@pytest.mark.parametrize(("name", "mapping"), [
    ("rwku/forget_level1.targets001-100.jsonl", "question=query,answer=answer"),
    ("rwku/forget_level3.targets001-100.jsonl", "question=query,answer=answer"),
    ("rwku/neighbor_level2.targets001-100.jsonl", "question=query,answer=answer"),
    ("restor/facts.json", "question=dset[][].question,answer=dset[][].answers[0]"),
    ("editing/counterfact-edit-1k.json", "prompt=prompt,completion=ground_truth"),
])
def test_published_files_whose_message_names_the_map(name: str, mapping: str) -> None:
    said, rows = by_the_message(data(name))
    assert said == mapping and len(rows) >= 1000
    if "restor" not in name:
        assert all(row.entity for row in rows)


def test_right_options_of_mmlu() -> None:
    raw = read_rows(data("utility/mmlu_dev.jsonl"))
    assert [row.answer for row in read_examples(data("utility/mmlu_dev.jsonl"))] == [
        row["choices"][row["answer"]] for _, row in raw]


def data(name: str) -> Path:
    path = SHARED / "data" / name
    if not path.exists():
        pytest.skip(f"{path} is not here")
    return path


# Shapes as published, by their papers' repositories and hub cards


@pytest.mark.parametrize(("row", "right"), [
    ({"prompt": "It was", "gt": "a cold day."}, "prompt=prompt,completion=gt"),  # MUSE verbmem, DUSK
    ({"query": "Who is it?", "answer": "Ann", "level": "1", "type": "cloze", "subject": "Ann"},
     "question=query,answer=answer"),
    ({"case_id": 1, "requested_rewrite": {"prompt": "{} is", "target_true": {"str": "tall"}, "subject": "Ann"}},  # ROME
     "prompt=requested_rewrite.prompt,completion=requested_rewrite.target_true.str,subject=requested_rewrite.subject"),
    ({"qa": {"question": "Who?", "answer": "Ann", "wrong_answers": ["Bob"], "entity": "a"}},
     "question=qa.question,answer=qa.answer,entity=qa.entity,wrong_answers=qa.wrong_answers"),
    ({"id": "a", "question": "Who?", "answers": {"text": ["Ann"], "answer_start": [3]}},  # SQuAD of the hub
     "question=question,answer=answers.text[0]"),
    ({"question": "Who?", "answers": ["Ann", "Anne"]}, "question=question,answer=answers[0]"),
    ({"question": "Which?", "choices": {"text": ["x", "y"], "label": ["A", "B"]}, "answerKey": "B"},  # ARC
     "question=question,answer=answerKey"),
    ({"instruction": "Name it.", "output": "Ann"}, "question=instruction,answer=output"),
    ({"prompt": "Who?", "chosen": "Ann", "rejected": "Bob"}, "question=prompt,answer=chosen"),
    ({"rows": [{"row_idx": 0, "row": {"question": "Who?", "answer": "Ann"}}]},
     "question=rows[].row.question,answer=rows[].row.answer"),
    ({"foo": "Who is it?", "bar": "Ann"}, "question=foo,answer=bar"),
    ({"id": 3, "article": "Ann is here."}, "text=article"),
    ({"data": {"train": [{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]}]}},
     "messages=data.train[].messages"),
])
def test_messages_name_a_map_that_works(tmp_path: Path, row: Mapping[str, Any], right: str) -> None:
    said, rows = by_the_message(write(tmp_path / "rows.jsonl", [row, row | {"id": "b"}]))
    assert said == right and len(rows) == 2
    assert "{}" not in rows[0].prompt and (rows[0].prompt == "Ann is") == ("case_id" in row)
    if "choices" in row:
        assert (rows[0].answer, rows[0].options) == ("y", ("x", "y"))


@pytest.mark.parametrize("rows", [
    [{"instruction": "a", "output": "b"}, {"instruction": "a"}],  # works for some rows only
    [{"question": "Who?", "mc1_targets": {"choices": ["a", "b"], "labels": [1, 0]}}],  # TruthfulQA
    [{"id": 1, "label": 0}], [{"a": {"b": {}}}],
    [{"sentence": "x", "option1": "a", "option2": "b", "answer": "7"}],
])
def test_no_map_is_named_that_does_not_work(tmp_path: Path, rows: Any) -> None:
    path = write(tmp_path / "rows.jsonl", rows)
    with pytest.raises(DataError) as refused:
        read_examples(path)
    assert propose(read_rows(path)) == "" and "add --map" not in str(refused.value)
    assert "It has: " in str(refused.value)


@pytest.mark.parametrize(("row", "answer"), [
    ({"text": "Who?", "label": "Ann"}, "Ann"), ({"text": "Who?", "target": "Ann", "id": 1}, "Ann"),
    ({"text": "How many?", "labels": 3}, "3"), ({"text": "Who?", "summary": "Ann"}, "Ann"),
])
def test_a_text_is_not_taken_without_what_stands_beside_it(tmp_path: Path, row: Any, answer: str) -> None:
    path = write(tmp_path / "rows.jsonl", [row])
    said, rows = by_the_message(path)
    assert said.startswith("question=text,answer=") and (rows[0].prompt, rows[0].answer) == (row["text"], answer)
    (alone,) = read_examples(path, mapping={"text": "text"})
    assert (alone.kind, alone.prompt, alone.answer) == ("text", "", row["text"])


def test_what_describes_a_text_does_not_belong_to_it(tmp_path: Path) -> None:
    row = {"text": "Once.", "title": "A tale", "url": "x", "source": None, "n": 3, "entity": "Ann"}
    (example,), notes = to_examples(read_rows(write(tmp_path / "rows.jsonl", [row])), prefix="forget")
    assert example.kind == "text" and notes == ("Columns of forget rows that are not used: title, url.",)


# Options


@pytest.mark.parametrize(("answer", "right"), [
    (0, "4"), (2, "1"), ("B", "9"), ("c", "1"), ("4", "4"), (9, "9"), ("9", "9"),
])
def test_the_right_option(tmp_path: Path, answer: Any, right: str) -> None:
    rows = [{"question": "?", "choices": ["4", "9", "1"], "answer": answer}]
    (row,) = read_examples(write(tmp_path / "r.jsonl", rows))
    assert (row.answer, row.short_answer) == (right, right)


@pytest.mark.parametrize(("row", "says"), [
    ({"choices": ["a", "b"], "answer": 2}, "the answer 2 is no place among 2 options"),
    ({"choices": ["3", "0"], "answer": "0"}, "'0' is one option and the place of another"),
    ({"choices": ["a", "b"], "answer": "D"}, "which of the options is right is not clear"),
    ({"choices": ["a", "b"], "answer": True}, "'answer' must be text"),
    ({"choices": "a, b", "answer": 1}, "'choices' must be a list"),
])
def test_options_that_do_not_fit(tmp_path: Path, row: Any, says: str) -> None:
    with pytest.raises(DataError, match=says):
        read_examples(write(tmp_path / "r.jsonl", [{"question": "?", **row}]))


def test_options_in_columns_and_their_numbers(tmp_path: Path) -> None:
    rows = [{"question": "?", "option1": "a", "option2": "b", "answer": "b"},
            {"question": "?", "option1": "a", "option2": "b", "answer": "2"},
            {"question": "?", "option_a": "x", "option_b": "y", "answer": "B"}]
    assert [row.answer for row in read_examples(write(tmp_path / "r.jsonl", rows))] == ["b", "b", "y"]


@pytest.mark.parametrize(("text", "answer"), [("42", "42"), ("3.10", "3.10"), ("-1", "-1"), ("1e400", "1E+400")])
def test_numbers_stay_as_they_are_written(tmp_path: Path, text: str, answer: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(f'{{"question": "How many?", "answer": {text}, "wrong_answers": [7, "8"]}}\n')
    (row,) = read_examples(path)
    assert (row.answer, row.wrong_answers) == (answer, ("7", "8"))


def test_not_a_number_is_no_answer(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"question": "How many?", "answer": 3, "id": NaN}\n{"question": "Who?", "answer": NaN}\n')
    with pytest.raises(DataError, match="line 2: 'answer' is empty"):
        read_examples(path)


# Conversations


def turns(*pairs: tuple[str, Any], role: str = "role", content: str = "content") -> list[dict[str, Any]]:
    return [{role: r, content: c} for r, c in pairs]


@pytest.mark.parametrize(("row", "before"), [
    ({"messages": turns(("system", "Be brief."), ("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d"))},
     (("system", "Be brief."), ("user", "a"), ("assistant", "b"), ("user", "c"))),
    ({"conversations": turns(("system", ""), ("human", "c"), ("gpt", "d"), role="from", content="value")},
     (("system", ""), ("user", "c"))),
    ({"conversations": turns(("user", "c"), ("assistant", "d"))}, (("user", "c"),)),
    ({"messages": turns(("user", [{"type": "text", "text": "b"}, "c"]), ("assistant", "d"))}, (("user", "b\nc"),)),
    ({"messages": [{"role": "user", "parts": [{"text": "c"}]}, {"role": "model", "parts": [{"text": "d"}]}]},
     (("user", "c"),)),
    ({"messages": [{"role": "user", "content": "c"}, {"role": "assistant", "function_call": {
        "name": "f", "arguments": "{\"x\": 1}"}}, {"role": "function", "content": "2"}, *turns(("assistant", "d"))]},
     (("user", "c"), ("assistant", '{"name": "f", "arguments": {"x": 1}}'), ("tool", "2"))),
])
def test_the_last_turn_is_the_answer(tmp_path: Path, row: Any, before: tuple[tuple[str, str], ...]) -> None:
    (example,) = read_examples(write(tmp_path / "r.jsonl", [row]))
    assert (example.messages, example.answer) == (before, "d")
    assert example.prompt == [c for r, c in before if r == "user"][-1]


@pytest.mark.parametrize(("turn", "says"), [
    ({"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]},
     "the last message calls a tool"),
    ({"role": "assistant", "content": [{"type": "image_url", "image_url": "x"}]}, r"no text \(image_url\)"),
    ({"role": "assistant", "content": 3}, r"no text \(int\)"), ({"role": 3, "content": "x"}, "'role' of a turn"),
    ({"from": "human", "value": "x"}, "from 'user'"), ({"role": "tool", "content": "x"}, "from 'tool'"),
])
def test_turns_that_cannot_be_used(tmp_path: Path, turn: Any, says: str) -> None:
    with pytest.raises(DataError, match=says):
        read_examples(write(tmp_path / "r.jsonl", [{"messages": [*turns(("user", "c")), turn]}]))


# Paths


NESTED = {"title": "t", "paragraphs": [{"about": "Ann", "qas": [{"q": "1?", "a": "x"}, {"q": "2?", "a": "y"}]},
                                       {"about": "Bob", "qas": [{"q": "3?", "a": "z"}]}]}


def test_paths_through_two_lists_and_to_what_stands_above(tmp_path: Path) -> None:
    path = write(tmp_path / "r.json", [NESTED, NESTED])
    rows = read_examples(path, mapping=parse_map(
        "question=paragraphs[].qas[].q,answer=paragraphs[].qas[].a,entity=paragraphs[].about,group=title", FIELDS))
    assert [(r.prompt, r.answer, r.entity, r.group) for r in rows][:3] == [
        ("1?", "x", "Ann", "t"), ("2?", "y", "Ann", "t"), ("3?", "z", "Bob", "t")]
    assert [r.id for r in rows] == [f"r/{n}" for n in range(6)]


def test_own_names_inside_an_item_need_no_map(tmp_path: Path) -> None:
    path = write(tmp_path / "r.json", {"data": {"train": [{**QA, "id": "x", "wrong_answers": ["Bob."]}]}})
    (row,) = read_examples(path, mapping={"question": "data.train[].question"})
    assert (row.id, row.answer, row.wrong_answers) == ("x", "Ann.", ("Bob.",))


def test_a_name_with_dots_or_plus_is_a_name_first(tmp_path: Path) -> None:
    path = write(tmp_path / "r.jsonl", [{"q.x": "Who?", "a+b": "Ann.", "q": {"x": "no"}}])
    (row,) = read_examples(path, mapping={"question": "q.x", "answer": "a+b"})
    assert (row.prompt, row.answer) == ("Who?", "Ann.")


def test_plus_leaves_out_what_is_empty(tmp_path: Path) -> None:
    path = write(tmp_path / "r.jsonl", [{"instruction": "Do", "input": "", "output": "x"},
                                        {"instruction": "Do", "input": "this", "output": "x"}])
    assert [row.prompt for row in read_examples(path, mapping={
        "question": "instruction+input", "answer": "output"})] == ["Do", "Do\nthis"]


@pytest.mark.parametrize(("mapping", "error", "says"), [
    ("question=data[].q,answer=other[].a", UsageError, "does not go through the same list"),
    ("question=data[].qq,answer=data[].a", DataError, r"No row has the field 'data\[\].qq'[\s\S]*data\[\]\.q\b"),
    ("question=data[].q,answer=data[].list", DataError, r"data\[0\]: 'answer' must be text, not a list"),
    ("question=data[].q+list,answer=data[].a", DataError, "'question' must be text, not a list"),
])
def test_paths_that_lead_nowhere(tmp_path: Path, mapping: str, error: Any, says: str) -> None:
    path = write(tmp_path / "r.json", {"data": [{"q": "Who?", "a": "Ann.", "list": ["x"]}], "other": [{"a": "y"}],
                                       "list": [1]})
    with pytest.raises(error, match=says):
        read_examples(path, mapping=parse_map(mapping, FIELDS))


@pytest.mark.parametrize(("other", "mapping"), [
    ({"instruction": "Where?", "input": "", "output": "Here."}, "question=instruction+input,answer=output"),
    ({"data": {"train": [{"q": "Where?", "a": "Here."}]}}, "question=data.train[].q,answer=data.train[].a"),
    ({"qa": {"question": "Where?", "answer": "Here."}}, "question=qa.question,answer=qa.answer"),
])
def test_one_map_serves_files_of_which_one_has_our_names(tmp_path: Path, other: Any, mapping: str) -> None:
    task = load_task(None, forget=write(tmp_path / "f.jsonl", [other]), retain=write(tmp_path / "r.jsonl", [QA]),
                     mapping=parse_map(mapping, FIELDS))
    assert [(r.prompt, r.answer) for r in (*task.forget, *task.retain)] == [("Where?", "Here."), ("Who?", "Ann.")]


def test_empty_answers_are_counted_in_the_message(tmp_path: Path) -> None:
    path = write(tmp_path / "r.jsonl", [QA, {**QA, "answer": ""}, QA, {**QA, "answer": " "}, {**QA, "answer": None}])
    with pytest.raises(DataError, match=r"line 2: 'answer' is empty[\s\S]*2 more of 5 rows, next in .*line 4"):
        read_examples(path)


def test_the_page_of_documents_has_every_shape() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "data.md").read_text(encoding="utf-8")
    for shape in SHAPES:
        assert f"| {shape.name} | `{'`, `'.join(shape.fields)}` | {shape.used_by} |" in page
