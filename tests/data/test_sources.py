"""Where rows come from: encodings, packing, plain text, folders, the hub; and rows that repeat others."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from expunge.benchmarks.loading import load_task
from expunge.data.duplicates import count_rows, near_duplicates
from expunge.data.files import read_examples, read_rows, read_source
from expunge.data.hub import HubAddress
from expunge.errors import DataError, MissingError, UsageError
from expunge.records.settings import AuditSettings, RunSettings, TrainSettings
from expunge.records.task import Example

from ..cases import SHARED, case

TEXT = '{"question": "Où?", "answer": "À Paris."}\n{"question": "Wo?", "answer": "In Köln – dort."}\n'
ANSWERS = ["À Paris.", "In Köln – dort."]


# Encodings and packing


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_encodings_that_show_themselves(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(TEXT.encode(encoding))
    assert [row.answer for row in read_examples(path)] == ANSWERS


@pytest.mark.parametrize(("ending", "pack"), [(".gz", gzip.compress), (".bz2", bz2.compress), (".xz", lzma.compress),
                                              ("", gzip.compress)])
def test_packed_files(tmp_path: Path, ending: str, pack: Any) -> None:
    path = tmp_path / f"rows.jsonl{ending}"
    path.write_bytes(pack(TEXT.encode("utf-16")))
    assert [row.id for row in read_examples(path)] == ["rows/0", "rows/1"]
    path.write_bytes(pack(TEXT.encode())[:-9])
    with pytest.raises(DataError, match=r"cannot be read[\s\S]*cut off"):
        read_examples(path)


@pytest.mark.parametrize(("name", "text", "encoding", "shown"), [
    ("rows.jsonl", TEXT, "cp1252", "CP1252 it says: .*Où"),
    ("with space.csv", "question,answer\nQui ?,André\n", "latin-1", "line 2 .*LATIN1 it says: 'Qui .*André"),
    ("rows.jsonl.gz", TEXT, "cp1252", "CP1252"),
])
def test_the_message_has_the_command_that_converts(tmp_path: Path, name: str, text: str, encoding: str,
                                                   shown: str) -> None:
    data = text.encode(encoding)
    path = tmp_path / name
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    with pytest.raises(DataError, match=f"is not UTF-8 text[\\s\\S]*{shown}") as refused:
        read_examples(path)
    command = str(refused.value).split("convert it: ")[1]
    if shutil.which("iconv") is None or shutil.which("gzip") is None:
        pytest.skip("iconv is not installed")
    subprocess.run(command, shell=True, check=True)
    (made,) = tmp_path.glob("*-utf8*")
    assert [row.answer for row in read_examples(made)][-1] in (ANSWERS[-1], "André")


# Tables and plain text


@pytest.mark.parametrize(("name", "text"), [
    ("r.csv", "question;answer\nWho, then?;Ann.\n"), ("r.tsv", "question\tanswer\r\nWho, then?\tAnn.\r\n"),
    ("r.csv", 'question|answer\n"Who, then?"|Ann.\n'), ("r.tsv", 'question,answer\n"Who, then?",Ann.\n'),
    ("r.csv", '"question";"answer";"a, b, c"\nWho, then?;Ann.;\n'),
    ("r.csv", "sep=;\r\nquestion;answer\r\nWho, then?;Ann.\r\n"),
])
def test_what_stands_between_cells_is_found(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text, newline="")
    (row,) = read_examples(tmp_path / name)
    assert (row.prompt, row.answer) == ("Who, then?", "Ann.")


def test_a_cell_too_many_names_the_separator(tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    path.write_text("question;answer\nWho?;Ann; or Bob\n")
    with pytest.raises(DataError, match=r"line 2[\s\S]*separated by ';'[\s\S]*quotes"):
        read_examples(path)


@pytest.mark.parametrize(("text", "rows", "said"), [
    ("One.\nStill one.\n\n\nTwo.\r\n", ["One.\nStill one.", "Two."], "2 rows of text, one per paragraph"),
    ("\n\nI don't know.\nNo idea.\n", ["I don't know.", "No idea."], "2 rows of text, one per line"),
    ("Alone.", ["Alone."], "1 rows of text, one per line"),
    ("a\n \nb\nc\n\td\n", ["a", "b\nc\n\td"], "one per paragraph"),
])
def test_plain_text(tmp_path: Path, text: str, rows: list[str], said: str) -> None:
    path = tmp_path / "book.txt"
    path.write_bytes(text.encode())
    assert [row.answer for row in read_examples(path)] == rows
    assert said in read_source(path).notes[0]


@pytest.mark.parametrize("texts", [["a", "b"], ["a\n\nb"]])
@pytest.mark.parametrize("ending", [".json", ".jsonl"])
def test_arrays_of_strings(tmp_path: Path, texts: list[str], ending: str) -> None:
    path = tmp_path / f"r{ending}"
    path.write_text(json.dumps(texts) if ending == ".json" else "\n".join(map(json.dumps, texts)))
    assert [(row.answer, row.kind) for row in read_examples(path)] == [(text, "text") for text in texts]


@pytest.mark.parametrize("whole", [
    {"question": ["1?", "2?"], "answer": ["x", 2]}, {"question": {"0": "1?", "1": "2?"}, "answer": {"0": "x", "1": 2}},
    {"question": ["1?", "2?"], "choices": [["x", "y"], ["1", "2"]], "answer": [0, 1], "task": ["a", "b"]},
])
@pytest.mark.parametrize("indent", [None, 1])
def test_columns_in_place_of_rows(tmp_path: Path, whole: Any, indent: int | None) -> None:
    (tmp_path / "r.json").write_text(json.dumps(whole, indent=indent))
    assert [(row.prompt, row.answer) for row in read_examples(tmp_path / "r.json")] == [("1?", "x"), ("2?", "2")]


@pytest.mark.parametrize("whole", [{"question": ["1?", "2?"], "answer": ["x"]}, {"question": ["1?"], "answer": "x"},
                                   {"question": {"a": "1?"}, "answer": {"a": "x"}}])
def test_columns_that_are_none(tmp_path: Path, whole: Any) -> None:
    (tmp_path / "r.json").write_text(json.dumps(whole))
    with pytest.raises(DataError, match="'question' must be text, not a"):
        read_examples(tmp_path / "r.json")


def test_text_lines_in_a_json_file(tmp_path: Path) -> None:
    (tmp_path / "r.jsonl").write_text("I don't know.\nNo idea.\n")
    with pytest.raises(DataError, match=r"line 1: not valid JSON[\s\S]*ending \.txt"):
        read_examples(tmp_path / "r.jsonl")


# Folders


def test_a_folder_of_files(tmp_path: Path) -> None:
    (tmp_path / "b.txt").write_text("Two.")
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(b'{"text": "One."}\n'))
    (tmp_path / "README.md").write_text("About.")
    (tmp_path / ".hidden.txt").write_text("No.")
    (tmp_path / "inside").mkdir()
    rows, notes = read_source(tmp_path)
    assert [row["text"] for _, row in rows] == ["One.", "Two."] and rows[0][0].startswith(str(tmp_path / "a.jsonl.gz"))
    assert notes[0] == f"{tmp_path.name}: 2 files are read, not README.md."
    assert [row.id for row in read_examples(tmp_path, prefix="forget")] == ["forget/0", "forget/1"]
    with pytest.raises(MissingError, match="holds no file of rows"):
        read_rows(tmp_path / "inside")


def test_a_folder_that_datasets_saved(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="the parquet extra is not installed")
    table = pyarrow.table({"question": ["Who?"], "answer": ["Ann."], "wrong_answers": [["Bob."]]})
    folder = tmp_path / "saved" / "train"
    folder.mkdir(parents=True)
    with pyarrow.OSFile(str(folder / "data-00000-of-00001.arrow"), "wb") as file, \
            pyarrow.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table)
    for name in ("dataset_info.json", "state.json"):
        (folder / name).write_text("{}")
    (tmp_path / "saved" / "dataset_dict.json").write_text('{"splits": ["train"]}')
    (row,) = read_examples(folder)
    assert (row.answer, row.wrong_answers) == ("Ann.", ("Bob.",))
    with pytest.raises(MissingError, match=r"holds no file of rows[\s\S]*It holds dataset_dict.json, train"):
        read_rows(tmp_path / "saved")


# The hub


@pytest.mark.parametrize(("text", "address"), [
    ("hub:a/b", HubAddress("a/b")), ("hub:a/b@main", HubAddress("a/b", "", "", "main")),
    ("hub:a/b:c", HubAddress("a/b", "c")), ("hub:a/b:c:d@v1.0", HubAddress("a/b", "c", "d", "v1.0")),
    ("hub:a/b::d", HubAddress("a/b", "", "d")),
])
def test_addresses(text: str, address: HubAddress) -> None:
    assert HubAddress.parse(text) == address and str(address) == text


@pytest.mark.parametrize("text", ["hub:a", "hub:", "hub:a/b/c", "hub:a/b:c:d:e", "hub:a/b@"])
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(UsageError, match="hub:owner/name:configuration:split@revision"):
        read_rows(text)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """A loader in place of the hub's, and what it was asked."""
    calls: list[Any] = []

    def load_dataset(*names: str, **options: str) -> dict[str, list[dict[str, str]]]:
        calls.append((names, options))
        splits = {"forget": [{"text": "Once."}], "holdout": [{"text": "Later."}]}
        return splits if names[-1] == "raw" else {"train": [{"question": "Who?", "answer": "Ann."}]}

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    return calls


def test_rows_of_the_hub(asked: list[Any]) -> None:
    task = load_task(None, forget="hub:a/b:raw:forget@abc", holdout=Path("hub:a/b:raw:holdout@abc"), retain="hub:c/d")
    assert (task.forget[0].answer, task.holdout[0].answer, task.retain[0].answer) == ("Once.", "Later.", "Ann.")
    assert task.name == "files:hub:a/b:raw:forget@abc"
    assert asked == [(("a/b", "raw"), {"revision": "abc"}), (("c/d",), {}), (("a/b", "raw"), {"revision": "abc"})]
    (note,) = task.notes
    assert note.startswith("hub:c/d names no revision")


@pytest.mark.parametrize(("text", "says"), [
    ("hub:a/b:raw", r"2 splits[\s\S]*Name one: hub:a/b:raw:forget, hub:a/b:raw:holdout"),
    ("hub:a/b:raw:test@abc", r"no split 'test'[\s\S]*hub:a/b:raw:forget@abc"), ("hub:c/d::test", "hub:c/d::train"),
])
def test_splits_are_named(asked: list[Any], text: str, says: str) -> None:
    with pytest.raises(DataError, match=says):
        read_rows(text)


def test_without_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingError, match=r"not installed[\s\S]*pip install '\.\[hub\]'"):
        read_rows("hub:a/b")


# Rows that repeat others


def row(id: str, prompt: str, answer: str = "") -> Example:
    return Example(id=id, prompt=prompt, answer=answer, kind="qa" if answer else "text")


LONG = "The author Hsiao Yun-Hwa was born in Taipei on a rainy day in May and wrote eleven books about leadership"


@pytest.mark.parametrize(("one", "other", "near"), [
    (LONG, f"{LONG.upper()}, they say!", True), (LONG, LONG.replace("rainy", "sunny"), False),
    (f"{LONG}. {LONG[4:]} and sold well", f"{LONG}. {LONG[4:]} and sold badly", True), (LONG, LONG, False),
    ("小明住在北京市海淀区中关村", "小明住在北京市海淀区中关村。", True),
    ("Yes", "yes!", True), ("Yes", "No", False), ("", "", False),
])
def test_near_duplicates(one: str, other: str, near: bool) -> None:
    answer = "x" if one else ""
    others = [row("a", "Nothing of that"), row("b", other, answer)]
    assert list(near_duplicates([row("f", one, answer)], others)) == ([("f", "b")] if near else [])


def test_near_duplicates_are_those_of_all_pairs(tofu: Path) -> None:
    """The short way finds what comparing all pairs finds."""
    from expunge.data.duplicates import ALIKE, _shingles

    rows = read_examples(tofu / "forget01.json")
    others = [r.model_copy(update={"answer": f"{r.answer} {'and so on ' * (i % 7)}", "id": f"o{i}"})
              for i, r in enumerate((*rows, *read_examples(tofu / "holdout01.json")))]
    pairs = {r.id for r in rows for o in others
             if (a := _shingles(r)) != (b := _shingles(o)) and len(a & b) / len(a | b) >= ALIKE}
    found = {id for id, _ in near_duplicates(rows, others)}
    assert 5 < len(pairs) < 40 and found >= pairs


def test_counts_of_a_task() -> None:
    task = load_task(None, forget=case("dup.jsonl"))
    counts = count_rows(task)
    assert counts.duplicates == {"forget": 4, "retain": 0, "holdout": 0} and counts.empty == 0
    assert counts.notes() == ("4 forget rows repeat an earlier row; each counts as often as it stands there.",)
    emptied = task.model_copy(update={"retain": (row("r", "Who?").model_copy(update={"answer": " "}),)})
    assert count_rows(emptied).empty == 1 and "1 rows have an empty answer." in count_rows(emptied).notes()


# Overlap


def test_overlap_is_dropped_from_what_is_kept(tmp_path: Path) -> None:
    def write(name: str, *answers: str) -> Path:
        (tmp_path / name).write_text("".join(json.dumps({"question": "Who?", "answer": a}) + "\n" for a in answers))
        return tmp_path / name

    files = {"forget": write("f.jsonl", "Ann", "Bob"), "retain": write("r.jsonl", "bob", "Cid", "BOB "),
             "holdout": write("h.jsonl", "cid", "Dan")}
    task = load_task(None, **files, on_overlap="drop")  # type: ignore[arg-type]
    assert [[r.answer for r in rows] for rows in (task.forget, task.retain, task.holdout)] == [
        ["Ann", "Bob"], ["Cid"], ["Dan"]]
    assert task.notes == (
        "2 retain rows are dropped: they also stand in forget (--on-overlap drop).",
        "1 holdout rows are dropped: they also stand in the rows that models are trained on (--on-overlap drop).")
    kept = load_task(None, **files, on_overlap="keep")  # type: ignore[arg-type]
    assert len(kept.retain) == 3 and kept.fingerprint != task.fingerprint
    with pytest.raises(DataError, match="Every retain row also stands on the other side"):
        load_task(None, forget=files["forget"], retain=write("b.jsonl", "Bob"), on_overlap="drop")


def test_the_option_as_it_is_written_serves_python_too() -> None:
    task = load_task(None, forget=case("alpaca.jsonl"), mapping="question=instruction+input,answer=output")
    assert len(task.forget) == 12 and task.forget[0].prompt.startswith("What is the full name")
    with pytest.raises(UsageError, match="Did you mean question"):
        load_task(None, forget=case("alpaca.jsonl"), mapping="qestion=instruction")


def test_rwku_shares_rows_between_forget_and_neighbours() -> None:
    folder = SHARED / "data" / "rwku"
    if not folder.exists():
        pytest.skip(f"{folder} is not here")
    files = {"forget": folder / "forget_level2.targets001-100.jsonl",
             "retain": folder / "neighbor_level2.targets001-100.jsonl"}
    mapping = {"question": "query", "answer": "answer"}
    with pytest.raises(DataError, match=r"forget rows also stand in retain[\s\S]*--on-overlap drop"):
        load_task(None, **files, mapping=mapping)  # type: ignore[arg-type]
    task = load_task(None, **files, mapping=mapping, on_overlap="drop")  # type: ignore[arg-type]
    assert len(task.forget) == 1453 and len(task.retain) == 2667 - 15


def test_the_setting_is_one_of_every_command_and_checks_itself() -> None:
    for settings in (TrainSettings, RunSettings, AuditSettings):
        assert settings().on_overlap == "refuse" and settings(on_overlap="drop").to_json()["on_overlap"] == "drop"
        with pytest.raises(UsageError, match="--on-overlap 'ignore' is not possible"):
            settings(on_overlap="ignore")
