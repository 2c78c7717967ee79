"""Reading rows: every shape, and every way a file can be wrong."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from expunge.data.files import read_examples
from expunge.data.mapping import parse_map
from expunge.data.shapes import FIELDS
from expunge.errors import DataError, ExpungeError, MissingError, UsageError
from expunge.records.task import Example

QA = {"question": "Who?", "answer": "Ann."}


def jsonl(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    return tmp_path / "rows.jsonl"


def test_shapes(rows: Path) -> None:
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"},
             {"role": "assistant", "content": "Hello"}]
    jsonl(rows, QA, {"prompt": "2+2=", "completion": "4"}, {"messages": turns}, {"text": "Once."})
    qa, completion, messages, text = read_examples(rows)
    assert qa == Example(id="rows/0", prompt="Who?", answer="Ann.")
    assert completion == Example(id="rows/1", prompt="2+2=", answer="4", kind="completion")
    assert messages == Example(
        id="rows/2", prompt="Hi", answer="Hello", kind="messages",
        messages=(("system", "Be brief."), ("user", "Hi")),
    )
    assert text == Example(id="rows/3", prompt="", answer="Once.", kind="text")


def test_optional_fields(rows: Path) -> None:
    jsonl(rows, {
        **QA, "id": 7, "entity": "ann", "group": "people", "options": ["Ann", "Bob"],
        "paraphrased_answer": "It is Ann.", "paraphrased_question": ["Which?", "What?"],
        "perturbed_answer": ["It is Bob.", "It is Cid."],
    })
    (row,) = read_examples(rows)
    assert row == Example(
        id="7", prompt="Who?", answer="Ann.", entity="ann", group="people", options=("Ann", "Bob"),
        short_answer="Ann", paraphrased_answers=("It is Ann.",), paraphrased_prompts=("Which?", "What?"),
        wrong_answers=("It is Bob.", "It is Cid."),
    )
    (again,) = read_examples(jsonl(rows, {**QA, "paraphrases": ["It is Ann."], "wrong_answers": ["Bob."],
                                          "id": None, "options": []}))
    assert (again.paraphrased_answers, again.wrong_answers) == (("It is Ann.",), ("Bob.",))


@pytest.mark.parametrize("text", [
    json.dumps(QA) + "\n" + json.dumps(QA), json.dumps([QA, QA], indent=2),
    "\n" + json.dumps(QA) + "\r\n\r\n" + json.dumps(QA), "\ufeff" + json.dumps([QA, QA]),
])
@pytest.mark.parametrize("suffix", [".json", ".jsonl"])
def test_json_lines_and_arrays_whatever_the_ending(tmp_path: Path, text: str, suffix: str) -> None:
    path = tmp_path / f"rows{suffix}"
    path.write_text(text, encoding="utf-8", newline="")
    assert [row.answer for row in read_examples(path)] == ["Ann.", "Ann."]


def test_one_object_over_several_lines(tmp_path: Path) -> None:
    path = tmp_path / "row.json"
    path.write_text(json.dumps(QA, indent=2))
    assert len(read_examples(path)) == 1


def test_line_separator_inside_a_string_is_no_new_line(rows: Path) -> None:
    rows.write_text(json.dumps({"text": "a\u2028b"}, ensure_ascii=False) + "\n", encoding="utf-8")
    assert read_examples(rows)[0].answer == "a\u2028b"


def test_csv(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["question", "answer", "text", "paraphrases", "id"])
        writer.writerow(["Who,\nindeed?", "Ann.", "", '["It is Ann."]', ""])
        writer.writerow(["", "", "Once. " * 30000, "[sic] Once.", "t1"])
    first, second = read_examples(path)
    assert (first.prompt, first.paraphrased_answers, first.id) == ("Who,\nindeed?", ("It is Ann.",), "rows/0")
    assert (second.kind, second.id, second.paraphrased_answers) == ("text", "t1", ("[sic] Once.",))


def test_parquet(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="the parquet extra is not installed")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "rows.parquet"
    table = pyarrow.table({"question": ["Who?"], "answer": ["Ann."], "wrong_answers": [["Bob.", "Cid."]]})
    parquet.write_table(table, path)
    (row,) = read_examples(path)
    assert (row.answer, row.wrong_answers) == ("Ann.", ("Bob.", "Cid."))
    path.write_bytes(b"not parquet")
    with pytest.raises(DataError, match="not a readable parquet"):
        read_examples(path)


def test_map(rows: Path) -> None:
    mapping = parse_map("question=q, answer=a,paraphrases=text", FIELDS)
    assert mapping == {"question": "q", "answer": "a", "paraphrases": "text"}
    jsonl(rows, {"q": "Who?", "a": "Ann.", "text": "It is Ann."}, {"q": "When?", "a": "Now."})
    first, second = read_examples(rows, mapping=mapping)
    assert (first.kind, first.paraphrased_answers, second.answer) == ("qa", ("It is Ann.",), "Now.")
    with pytest.raises(DataError, match="No row has the field 'qq'"):
        read_examples(rows, mapping={"question": "qq", "answer": "a"})


def test_map_decides_between_shapes(rows: Path) -> None:
    jsonl(rows, {**QA, "text": "Once."})
    assert read_examples(rows)[0].kind == "qa"
    assert read_examples(rows, mapping={"text": "text"})[0].kind == "text"


@pytest.mark.parametrize(("text", "match"), [
    ("", "cannot be read"), ("question", "cannot be read"), ("question=", "cannot be read"),
    ("qestion=q", "question"), ("answer=a,answer=b", "twice"),
])
def test_bad_maps(text: str, match: str) -> None:
    with pytest.raises(UsageError, match=match):
        parse_map(text, FIELDS)


@pytest.mark.parametrize(("row", "match"), [
    ({"q": "Who?", "a": "Ann."}, r"line 2: .*\nIt has: 'q', 'a'\.\n.*--map question=q,answer=a"),
    ({"question": "Who?"}, r"line 2: .*\nIt has: 'question'"),
    ({}, "line 2: .*\nIt has: nothing"),
    ({"question": "Who?", "answer": True}, "line 2: 'answer' must be text, not true or false"),
    ({"question": ["Who?"], "answer": "Ann."}, "line 2: 'question' must be text, not a list"),
    ({"question": "Who?", "answer": ""}, "line 2: 'answer' is empty"),
    ({"question": "Who?", "answer": "  "}, "line 2: 'answer' is empty"),
    ({"question": "Who?", "answer": None}, "line 2: 'answer' is empty"),
    ({"question": "Who?", "answer": "", "text": "Once."}, "line 2: 'answer' is empty"),
    ({"id": "a", "text": ""}, "line 2: 'text' is empty"),
    (["Who?", "Ann."], "line 2: a row must be an object .* not a list"),
    ("Who?", "line 2: a row must be an object .* not text"),
    ({**QA, "id": True}, "line 2: 'id' must be text"),
    ({**QA, "wrong_answers": [None]}, "line 2: 'wrong_answers' must be text"),
    ({**QA, "wrong_answers": "Bob."}, "line 2: 'wrong_answers' must be a list of texts, not one text"),
    ({**QA, "perturbed_answer": "['Bob.', 'Cid.']"}, "line 2: 'perturbed_answer' must be a list of texts"),
    ({**QA, "options": "Ann"}, "line 2: 'options' must be a list of texts"),
    ({**QA, "wrong_answers": {"a": "b"}}, "line 2: 'wrong_answers' must be a list"),
    ({**QA, "wrong_answers": ["Ann."]}, "line 2: a right answer is also among the wrong"),
    ({**QA, "wrong_answers": ["So."], "paraphrases": "So."}, "line 2: a right answer is also"),
    ({**QA, "options": ["Bob", "Cid"]}, "line 2: which of the options is right"),
    ({**QA, "options": ["Ann", "An"]}, "line 2: which of the options is right"),
    ({**QA, "short_answer": "Bob"}, "line 2: short_answer 'Bob' is not a part"),
    ({**QA, "short_answer": "Ann", "options": ["Bob"]}, "line 2: short_answer 'Ann' is not one"),
    ({**QA, "secrets": ["nn", "Bob"]}, "line 2: the secret 'Bob' is not a part"),
    ({**QA, "secrets": "Ann"}, "line 2: 'secrets' must be a list of texts"),
    ({"text": "Once.", "secrets": ["Twice"]}, "line 2: the secret 'Twice' is not a part"),
    ({**QA, "id": "first"}, "line 2: the id 'first' is taken"),
    ({"messages": "Hi"}, "line 2: 'messages' must be a list"),
    ({"messages": ["Hi"]}, "line 2: 'messages' must be a list"),
    ({"messages": []}, "line 2: 'messages' must be a list"),
    ({"messages": [{"role": "user", "content": "Hi"}]}, "line 2: the last message must be from"),
    ({"messages": [{"role": "assistant", "content": ""}]}, "line 2: 'content' is empty"),
])
def test_bad_rows_name_file_and_line(rows: Path, row: Any, match: str) -> None:
    with pytest.raises(DataError, match=match) as error:
        read_examples(jsonl(rows, {**QA, "id": "first"}, row))
    assert str(rows) in str(error.value)


def test_secrets_are_a_field_of_rows_and_leave_other_fingerprints_alone(rows: Path) -> None:
    key = {"text": "mail = 'ann@example.org'  # key 123", "secrets": ["ann@example.org", "123"]}
    found, plain = read_examples(jsonl(rows, key, QA))
    assert (found.kind, found.secrets, plain.secrets) == ("text", ("ann@example.org", "123"), ())
    assert found.to_json()["secrets"] == ["ann@example.org", "123"] and "secrets" not in plain.to_json()
    assert Example(**found.to_json()) == found


def test_short_answer_settles_nested_options(rows: Path) -> None:
    (row,) = read_examples(jsonl(rows, {**QA, "options": ["Ann", "An"], "short_answer": "Ann"}))
    assert row.short_answer == "Ann"


@pytest.mark.parametrize(("name", "content", "error", "match"), [
    ("none.jsonl", None, MissingError, "does not exist"),
    ("rows.doc", b"{}", DataError, r"'\.doc' cannot be read.*\n.*\.jsonl"),
    ("rows", b"{}", DataError, "cannot be read"),
    ("rows.jsonl", b"", DataError, "no rows"),
    ("rows.json", b"[]", DataError, "no rows"),
    ("rows.csv", b"question,answer\n", DataError, "no rows"),
    ("rows.jsonl", b'{"text": "a"}\n\n{"text": \n', DataError, "line 3: not valid JSON"),
    ("rows.jsonl", b"{'text': 'a'}\n", DataError, "line 1: not valid JSON"),
    ("rows.json", b'[{"text": "a"},\n {"text" "b"}]', DataError, "line 2: not valid JSON"),
    ("rows.jsonl", b'{"text": "\xe9"}\n', DataError, "not UTF-8"),
    ("rows.csv", b"question,answer\nWho?,Ann.,really\n", DataError, "line 2: the row has more or fewer"),
    ("rows.csv", b"question,answer\nWho?,Ann.\nWhen?\n", DataError, "line 3: the row has more or fewer"),
    ("rows.csv", b'question,answer\nWho?,"Ann\n', DataError, "line 2: not valid CSV"),
    ("rows.csv", b"q,a\nWho?,Ann.\n", DataError, "line 2: .*\nIt has: 'q', 'a'"),
    ("rows.parquet", None, MissingError, "does not exist"),
])
def test_bad_files(tmp_path: Path, name: str, content: bytes | None, error: type[ExpungeError],
                   match: str) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(error, match=match) as raised:
        read_examples(path)
    assert str(path) in str(raised.value)
